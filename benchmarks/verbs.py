"""Rows of ``python -m benchmarks`` about one image explained, and an edited model scored again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from PIL import Image
from pipeline import untrained
from race import Row, race

from segproto import api
from segproto.data.base import SegmentationDataset
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig, ScenesConfig
from segproto.data.scenes import ScenesDataset
from segproto.evaluation.rescore import EncoderFeatures, rescore
from segproto.evaluation.validate import validate
from segproto.methods import METHODS
from segproto.model.edit import edited
from segproto.model.explanation import Explanation
from segproto.model.segmenter import Segmenter
from segproto.runs.catalogue import read_recipe
from segproto.training.procedures.config import ProjectConfig
from segproto.training.procedures.projection import project
from segproto.training.recipe import validate_recipe
from segproto.training.stage import StageContext

SIZE = (360, 480)


def surroundings(model: Segmenter, images: SegmentationDataset) -> StageContext:
    """What a procedure may use, on one process."""
    fabric = cast(Any, SimpleNamespace(global_rank=0, world_size=1))
    recipe = validate_recipe(read_recipe("scaleproto/scenes"), METHODS["scaleproto"].recipe)
    return StageContext(model, fabric, recipe, Path(), images, None)


def scene_folder(folder: Path, count: int, size: tuple[int, int] = SIZE) -> SegmentationDataset:
    """Scenes enlarged to (height, width), as JPEG files with masks."""
    scenes = ScenesDataset(ScenesConfig(num_train=1, num_val=count, size=128), "val")
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for index in range(count):
        sample, where = scenes[index], f"{index:04d}"
        picture = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
        picture.resize(size[::-1], Image.Resampling.BICUBIC).save(folder / "images" / f"{where}.jpg", quality=92)
        mask = Image.fromarray(sample.mask.numpy()).resize(size[::-1], Image.Resampling.NEAREST)
        mask.save(folder / "labels" / f"{where}.png")
    names = "".join(f"- {{name: {name}, values: [{value}]}}\n" for value, name in enumerate(scenes.classes.names))
    (folder / "classes.yaml").write_text(f"classes:\n{names}split: {{val_pattern: '.'}}\n")
    return build_dataset(DataConfig(root=folder), "val")


def validation(folder: Path, count: int) -> tuple[SegmentationDataset, str]:
    """Validation images of CamVid where they are at hand, else scenes of their size; and what they are."""
    camvid = Path(os.environ.get("SEGPROTO_DATA", ".")) / "camvid"
    if camvid.is_dir() and count == 101:
        return build_dataset(DataConfig(name="camvid", root=camvid), "val"), "CamVid"
    return scene_folder(folder, count), "scenes 480x360"


def explain_row(quick: bool) -> Row:
    """One photograph to files and a page, beside its mask alone."""
    del quick
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        images = scene_folder(root / "data", 8)
        model = untrained("scaleproto/folder", images)
        project(surroundings(model, images), ProjectConfig())
        photo = root / "data" / "images" / "0000.jpg"

        def ours() -> Explanation:
            return api.explain(model, photo, out=root / "why")

        def plain() -> object:
            return api.predict(model, photo, out=root / "masks", quiet=True)

        ours(), plain()
        masks = [np.array(Image.open(file)) for file in (root / "why" / "prediction.png", root / "masks" / "0000.png")]
        same = float((masks[0] == masks[1]).mean())
        words = "explain one photo 480x360 to files and page, ViT-Tiny | predict of it"
        return race(words, ours, plain, (f"{same:.3%} of the mask", same > 0.999), 5)


def edit_row(quick: bool) -> Row:
    """A model and its edited twin scored on kept features, beside the evaluation of the edited one."""
    with tempfile.TemporaryDirectory() as temporary:
        images, what = validation(Path(temporary) / "data", 12 if quick else 101)
        model = untrained("scaleproto/folder", images)
        after, kept = edited(model, drop=[0])

        def ours() -> float:
            features = EncoderFeatures(after, images, Path(temporary) / "cache")
            return float(rescore(features, after.head.beside(model.head, kept), 2)[1]["miou"])

        def plain() -> float:
            return float(validate(after, images)["miou"])

        apart = abs(ours() - plain())
        words = f"edit scored before and after on {len(images)} images ({what}), features kept | evaluate"
        return race(words, ours, plain, (f"mIoU differs by {apart:.0e}", apart < 1e-4), 3 if quick else 2)
