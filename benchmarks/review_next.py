"""``review --next`` against chance: how many images must be labelled, chosen from none or from twenty at random.

A part of ``review_results.py`` (``--what next``). The images of the training split lie in a pool without labels; some
are labelled, the memory is filled with them, and the next are chosen with what it is unsure of: by
``rank_next``, which ``segproto review --next`` calls, on cached features of the frozen ViT-Tiny. A class that no
labelled image shows is never answered and counts with an IoU of 0. Finished curves are kept.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segproto.data.build import build_dataset
from segproto.data.subset import Subset
from segproto.evaluation.review.teaching import entropy_of, pooled, rank_next
from segproto.evaluation.validate import validate
from segproto.methods.memory import METHOD
from segproto.model.cache import FeatureCache
from segproto.model.features import image_features
from segproto.model.memory_head import MemoryBank, MemoryHead
from segproto.model.remembering import image_cells
from segproto.prototypes.retrieval import embed_cells
from segproto.runs.settings import resolve
from segproto.training.class_weights import count_pixels

STEP = 20  # images labelled at once
LEAST, MOST = 100, 200  # a curve ends where it reaches the goal, between these
GOAL = 0.95  # of the mIoU with all labels
FILE = "review_next.json"
WAYS = {
    "random": "at random",
    "grown": "20 at random, then by `review --next`",
    "alone": "20 at random, then unlike the labelled, without the model's doubts",
    "none": "all by `review --next`, from no label on",
}


class Pool:
    """Training and validation images of a data set with their cached features.

    Attributes:
        parts: (N, K, D) of the training images, as ``review --next`` looks at them.
    """

    def __init__(self, settings: list[str]) -> None:
        self.recipe = resolve("memory/folder", {}, settings)[1]
        self.train, self.val = (build_dataset(self.recipe.data, split) for split in ("train", "val"))
        self.model = METHOD.build(self.recipe, self.train.classes).eval()
        root = Path(os.environ["SEGPROTO_CACHE"])
        self.train_cache, self.val_cache = (
            FeatureCache.open(self.model.encoder, data, root, flips=False) for data in (self.train, self.val)
        )
        self.parts = torch.stack([pooled(self.train_cache.get(i)[None]) for i in range(len(self.train))])

    def remember(self, labelled: list[int], seed: int) -> None:
        """Fills the memory with the labelled images alone, as the recipe's one stage does."""
        config, blocks = self.recipe.stages.remember, len(self.recipe.encoder.layers)
        classes = self.train.classes.num_classes
        pixels = count_pixels(Subset(self.train, labelled))[0].double()
        shares = (pixels / pixels.sum()).float()
        each = -(-config.patches // len(labelled))
        cells = [
            image_cells(
                self.model, self.train[i], image_features(self.model, self.train, i, self.train_cache), classes, blocks,
                each, config.labelled, seed + i, shares,
            )
            for i in labelled
        ]  # fmt: skip
        average = sum(one["sum"] for one in cells) / sum(one["count"] for one in cells)
        removed = torch.zeros(0, len(average))
        vectors = embed_cells(torch.cat([one["features"] for one in cells]), 0, average.float(), removed).half()
        frequencies = torch.cat([one["frequencies"] for one in cells]).half()
        bank = MemoryBank(vectors, frequencies, average.float(), removed, blocks)
        self.model.head = MemoryHead(bank, self.recipe.model.neighbours, self.recipe.model.temperature).eval()

    def score(self) -> float:
        """Validation mIoU of the memory as it is, over all classes: an unknown one has 0."""
        return float(validate(self.model, self.val, cache=self.val_cache)["miou"])

    @torch.no_grad()
    def doubts(self, images: list[int]) -> Tensor:
        """(n, K) how unsure the memory is of the parts of training images."""
        unsure = []
        for index in images:
            head = self.model.head
            said = head.probabilities(head(image_features(self.model, self.train, index, self.train_cache)))
            unsure.append(pooled(entropy_of(said, 1)[:, None])[:, 0])
        return torch.stack(unsure)

    def choose(self, labelled: list[int], doubting: bool) -> list[int]:
        """What ``review --next`` would have labelled next."""
        free = [i for i in range(len(self.train)) if i not in set(labelled)]
        unsure = self.doubts(free) if doubting and labelled else None
        known = self.parts[labelled].flatten(0, 1) if labelled else None
        return [free[one.index] for one in rank_next(self.parts[free], STEP, uncertainty=unsure, known=known)]


def curve(pool: Pool, way: str, seed: int, goal: float) -> list[float]:
    """mIoU with 20, 40 ... labelled images, until it reaches the goal."""
    order = np.random.default_rng(seed).permutation(len(pool.train)).tolist()
    labelled: list[int] = [] if way == "none" else order[:STEP]
    scores = []
    while len(labelled) <= MOST:
        if labelled:
            pool.remember(labelled, seed)
            scores.append(pool.score())
            if scores[-1] >= goal and len(labelled) >= LEAST:
                break
        more = order[len(labelled) :][:STEP] if way == "random" else pool.choose(labelled, way != "alone")
        labelled = labelled + more
    return scores


def needed(scores: list[float], goal: float) -> int | None:
    """Labelled images at which a curve first reaches the goal; None = it does not."""
    reached = [i for i, score in enumerate(scores, 1) if score >= goal]
    return STEP * reached[0] if reached else None


def measure_next(settings: list[str], seeds: list[int], out: Path) -> None:
    """The curves of every way and seed, once, and their table."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / FILE
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    pool = Pool(settings)
    for way in ("all", *WAYS):
        for seed in seeds:
            if (key := f"{way} {seed}") in found:
                continue
            begin = time.process_time()
            if way == "all":
                pool.remember(list(range(len(pool.train))), seed)
                found[key] = [pool.score()]
            else:
                found[key] = curve(pool, way, seed, GOAL * found[f"all {seed}"][0])
            file.write_text(json.dumps(found))
            print(key, [round(100 * x, 1) for x in found[key]], f"{time.process_time() - begin:.0f} s", flush=True)
    print_table(found, seeds, len(pool.train))


def print_table(found: dict[str, Any], seeds: list[int], images: int) -> None:
    """How many images each way needs per seed, and its mean mIoU on the way."""
    print(f"\nall {images} images: " + ", ".join(f"{100 * found[f'all {seed}'][0]:.1f}" for seed in seeds))
    shown = range(1, LEAST // STEP + 1)
    print(
        f"\n| chosen | labelled images for 95 % | mIoU with {', '.join(str(STEP * n) for n in shown)} |\n|---|---|---|"
    )
    for way, words in WAYS.items():
        curves = {seed: found[f"{way} {seed}"] for seed in seeds if f"{way} {seed}" in found}
        if not curves:
            continue
        counts = ", ".join(str(needed(c, GOAL * found[f"all {seed}"][0]) or f"> {MOST}") for seed, c in curves.items())
        print(f"| {words} | {counts} | {', '.join(spread([c[n - 1] for c in curves.values()]) for n in shown)} |")


def spread(scores: list[float]) -> str:
    """Mean and spread in points."""
    points = [100 * score for score in scores]
    return f"{mean(points):.1f}" + (f" ± {stdev(points):.1f}" if len(points) > 1 else "")
