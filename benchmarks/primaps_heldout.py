"""Settings of EM chosen without labels: train on all but one group of images, look at the proposals of that group.

    OMP_NUM_THREADS=1 SEGPROTO_DATA=DIR python benchmarks/primaps_heldout.py RUN [--groups "^[^_]*"] [--only tile1]

RUN is a primaps run, whose training images and proposals are taken. What is maximised is the information between the
categories and the proposals of the images left out: the entropy of the categories less their mean entropy within a
proposal. One category for all has none, and so have categories at random. mIoU and accuracy are printed to look at.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segproto.data.build import build_dataset
from segproto.methods.primaps.em import upsampled
from segproto.methods.primaps.proposed import MASKS, Proposed, unpack
from segproto.metrics.matching import hungarian
from segproto.metrics.segmentation import segmentation_scores
from segproto.model.direction_head import DirectionBank, TeacherHead
from segproto.model.features import image_features
from segproto.model.patches import covered_mask
from segproto.model.segmenter import Segmenter
from segproto.prototypes.expectation import frequency_weighted_loss, kmeans_loss, majority_vote, teacher_decay
from segproto.prototypes.streaming_pca import StreamingPca
from segproto.runs.settings import data_config

KMEANS, EM, BATCH = 200, 300, 4
VARIANTS: dict[str, dict[str, Any]] = {
    "k-means": {},
    "primaps": {"lr": 5e-3},
    "gamma=0": {"lr": 5e-3, "gamma": 0.0},
    "warmup=none": {"lr": 5e-3, "warmup": "none"},
    "lr=5e-4": {"lr": 5e-4},
    "lr=5e-4 warmup=none": {"lr": 5e-4, "warmup": "none"},
    "100 steps": {"lr": 5e-3, "steps": 100},
}


class Seen(NamedTuple):
    """One image: features (1, C, h, w), labels and proposals (0 = none) at a quarter of its sides."""

    features: Tensor
    labels: Tensor
    regions: Tensor


def train(images: list[Seen], start: Tensor, seed: int, lr: float | None = None, steps: int = EM, **em: Any) -> Tensor:
    """Directions (K, C) after k-means and, with a rate, EM; flips are left out, which say little to single cells."""
    batches = torch.Generator().manual_seed(seed)

    def batch() -> list[Seen]:
        return [images[i] for i in torch.randperm(len(images), generator=batches)[:BATCH].tolist()]

    vectors = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=5e-3)
    for _ in range(KMEANS if lr is not None else KMEANS + EM):
        cells = torch.cat([image.features.flatten(2) for image in batch()], 2)[..., None]
        optimizer.zero_grad()
        kmeans_loss(cells, vectors).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    head = TeacherHead(DirectionBank(vectors))
    if lr is None:
        return head.bank.vectors.detach()
    gamma, warmup = em.get("gamma", 2.0), em.get("warmup", "published")
    optimizer = torch.optim.Adam(head.student.parameters(), lr=lr)
    for step in range(steps):
        logits, pseudo = [], []
        for image in batch():
            size = (image.labels.shape[0], image.labels.shape[1])
            with torch.no_grad():
                votes = upsampled(head.bank.logits(image.features), size).argmax(1)
            pseudo.append(majority_vote(votes, image.regions[None], len(start)).flatten())
            logits.append(upsampled(head.student.logits(image.features), size)[0].flatten(1))
        optimizer.zero_grad()
        loss = frequency_weighted_loss(
            torch.cat(logits, 1)[None, ..., None], torch.cat(pseudo)[None, :, None], gamma=gamma
        )
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step and step % 10 == 0:
            head.update_teacher(teacher_decay(step // 10, 0.98, warmup))
    return head.bank.vectors.detach()


@torch.no_grad()
def judge(images: list[Seen], vectors: Tensor, classes: int) -> tuple[float, float, float]:
    """Information between categories and proposals, without labels; then mIoU and accuracy, with them."""
    count, bank = len(vectors), DirectionBank(vectors, vectors.norm(dim=1))
    within, pixels = 0.0, 0.0
    total, table = torch.zeros(count, dtype=torch.float64), torch.zeros(classes, count, dtype=torch.int64)
    for image in images:
        size = (image.labels.shape[0], image.labels.shape[1])
        found = upsampled(bank.logits(image.features), size).argmax(1)[0]
        inside, known = image.regions > 0, image.labels < classes
        slots = image.regions[inside] * count + found[inside]
        parts = torch.bincount(slots, minlength=256 * count).view(256, count).double()
        shares = parts / parts.sum(1, keepdim=True).clamp_min(1)
        within += float((torch.special.entr(shares).sum(1) * parts.sum(1)).sum())
        pixels += float(parts.sum())
        total += parts.sum(0)
        slots = image.labels[known] * count + found[known]
        table += torch.bincount(slots, minlength=table.numel()).view(table.shape)
    matched = hungarian(table)
    scores = segmentation_scores(matched.confusion, matched.undecided)
    information = float(torch.special.entr(total / total.sum()).sum()) - within / max(pixels, 1)
    return information, 100 * float(scores.miou or 0), 100 * float(scores.accuracy or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    parser.add_argument("--groups", default="^[^_]*", help="what the names of images of one group have in common")
    parser.add_argument("--only", nargs="+", help="leave these groups out only")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    model, whole = Segmenter.load(args.run / "model"), build_dataset(data_config(args.run, {}, []), "train")
    dataset, seen = Proposed(whole, args.run), dict[str, list[Seen]]()
    if not (args.run / MASKS).exists():
        parser.error(f"{args.run}: no {MASKS}; train it with steps of EM")
    for index, name in enumerate(dataset.names):
        labels, regions = unpack(covered_mask(model, dataset[index].mask)[2::4, 2::4])
        group = re.search(args.groups, name)
        seen.setdefault(group.group() if group else name, []).append(
            Seen(image_features(model, whole, index), labels.long(), regions.long())
        )
    found: dict[str, list[tuple[float, float, float]]] = {}
    for group in args.only or seen:
        rest = [image for other, images in seen.items() if other != group for image in images]
        pca = StreamingPca(rest[0].features.shape[1], torch.device("cpu"))
        for image in rest:
            pca.update(image.features[0].flatten(1).T)
        start = pca.components(model.head.num_classes)
        for name, settings in VARIANTS.items():
            figures = judge(seen[group], train(rest, start, args.seed, **settings), whole.classes.num_classes)
            found.setdefault(name, []).append(figures)
            print(f"{group}, {name}: information {figures[0]:.3f}, mIoU {figures[1]:.1f}, {figures[2]:.1f}", flush=True)
    print("\n| | information | mIoU | pixel accuracy |\n|---|---|---|---|")
    for name, rows in found.items():
        information, miou, accuracy = (mean(values) for values in zip(*rows, strict=True))
        print(f"| {name} | {information:.3f} | {miou:.1f} | {accuracy:.1f} |")


if __name__ == "__main__":
    main()
