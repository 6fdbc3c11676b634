"""Rows of ``python -m benchmarks`` about what is around the network: predict, evaluate, cached features, cold start."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from race import Row, race
from torch import Tensor

from segproto import api
from segproto.data.config import ScenesConfig
from segproto.data.picture import look_at
from segproto.data.scenes import ScenesDataset
from segproto.evaluation.validate import validate
from segproto.methods import METHODS
from segproto.model.cache import FeatureCache
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating
from segproto.runs.catalogue import read_recipe
from segproto.training.recipe import apply_overrides, validate_recipe


def untrained(recipe: str, data: ScenesDataset) -> Segmenter:
    """A model with random weights: for its speed."""
    name = recipe.partition("/")[0]
    settings = ["data.name=scenes", "encoder.weights=null", "encoder.pretrained=false"]
    value = apply_overrides(read_recipe(recipe), settings if not recipe.endswith("scenes") else [])
    torch.manual_seed(0)
    return METHODS[name].build(validate_recipe(value, METHODS[name].recipe), data.classes).eval()


def photos(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Scenes as JPEG files of (height, width)."""
    scenes = ScenesDataset(ScenesConfig(num_train=count, num_val=1, size=128), "train")
    folder.mkdir()
    files = []
    for index in range(count):
        picture = Image.fromarray(scenes[index].image.permute(1, 2, 0).numpy())
        files.append(folder / f"{index:04d}.jpg")
        picture.resize(size[::-1], Image.Resampling.BICUBIC).save(files[-1], quality=92)
    return files


def predict_rows(quick: bool) -> Iterator[Row]:
    """Masks of a folder of files beside the network alone on decoded images, one after the other."""
    scenes = ScenesDataset(ScenesConfig(num_train=1, num_val=1), "train")
    cases = [
        ("scaleproto/folder", (360, 480), 12 if quick else 100, "photos 480x360, ViT-Tiny"),
        ("scaleproto/scenes", (128, 128), 300 if quick else 2000, "thumbnails 128 px, quickstart model"),
    ]
    for recipe, size, count, words in cases:
        model = untrained(recipe, scenes)
        with tempfile.TemporaryDirectory() as temporary:
            files = photos(Path(temporary) / "photos", count, size)
            images = [look_at(file).read(0, 0, *size) for file in files]

            def alone(model: Segmenter = model, images: list[Tensor] = images) -> list[Tensor]:
                with evaluating(model):
                    return [model(model.encoder.normalisation(image)[None]).argmax(1)[0] for image in images]

            def ours(model: Segmenter = model, root: Path = Path(temporary)) -> object:
                return api.predict(model, root / "photos", out=root / "masks", quiet=True)

            masks = alone()
            ours()
            equal = [
                float(
                    (torch.from_numpy(np.array(Image.open(Path(temporary) / "masks" / f"{i:04d}.png"))) == mask)
                    .float()
                    .mean()
                )
                for i, mask in enumerate(masks)
            ]
            share = sum(equal) / len(equal)
            yield race(
                f"predict {count} {words} | the network alone",
                ours, alone, (f"{share:.3%} of the pixels", share > 0.999), 3,
            )  # fmt: skip


def evaluate_row(quick: bool) -> Row:
    """Scoring beside a plain loop with torchmetrics."""
    from torchmetrics.classification import MulticlassJaccardIndex

    data = ScenesDataset(ScenesConfig(num_train=1, num_val=20 if quick else 100, size=192), "val")
    model = untrained("scaleproto/scenes", data)

    def plain() -> float:
        metric = MulticlassJaccardIndex(data.classes.num_classes, ignore_index=255)
        with evaluating(model):
            for index in range(len(data)):
                sample = data[index]
                metric.update(model(model.encoder.normalisation(sample.image)[None]), sample.mask[None].long())
        return float(metric.compute())

    def ours() -> float:
        return float(validate(model, data)["miou"])

    apart = abs(ours() - plain())
    return race(
        f"evaluate {len(data)} images | torchmetrics", ours, plain, (f"mIoU differs by {apart:.0e}", apart < 2e-3), 3
    )


def cache_row(quick: bool) -> Row:
    """Caching features beside a plain loop that writes a file for each image."""
    data = ScenesDataset(ScenesConfig(num_train=16 if quick else 64, num_val=1, size=224), "train")
    encoder = untrained("scaleproto/folder", data).encoder

    def plain() -> list[Tensor]:
        with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
            kept = []
            for index in range(len(data)):
                image = encoder.normalisation(data[index].image)[None]
                pair = torch.cat([encoder.backbone_features(image), encoder.backbone_features(image.flip(-1))]).half()
                torch.save(pair, Path(folder) / f"{index}.pt")
                kept.append(pair[0].float())
        return kept

    def ours() -> list[Tensor]:
        with tempfile.TemporaryDirectory() as folder:
            cache = FeatureCache.open(encoder, data, Path(folder))
            return [cache.get(index) for index in range(len(data))]

    apart = max(float((a - b).abs().max()) for a, b in zip(ours(), plain(), strict=True))
    return race(
        f"cache features of {len(data)} images | plain loop", ours, plain, (f"differs by {apart:.0e}", apart < 0.05), 3
    )


def start_rows(quick: bool) -> Iterator[Row]:
    """How long the command takes to answer, beside importing what it needs."""
    del quick
    imports = [sys.executable, "-c", "import torch, timm"]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        [photo] = photos(root / "photos", 1, (360, 480))
        untrained("scaleproto/folder", ScenesDataset(ScenesConfig(num_train=1, num_val=1), "train")).save(
            root / "model"
        )
        predict = ["predict", str(root / "model"), str(photo), "--out", str(root / "masks")]
        for words, command in (
            ("segproto --help", ["-m", "segproto.cli", "--help"]),
            ("import segproto", ["-c", "import segproto"]),
            ("segproto predict of one photo, ViT-Tiny", ["-m", "segproto.cli", *predict]),
        ):
            lines = ([sys.executable, *command], imports)
            run = [lambda line=line: subprocess.run(line, check=True, capture_output=True) for line in lines]  # type: ignore[misc]
            for first in run:
                first()
            yield race(f"{words} | import torch, timm", *run, ("answers", True), 3, clock=time.perf_counter)
