"""Photos with image-level tags: MSRC-21 and clothes (``ccp500_half``), images of one size each."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from segproto.data.base import SegmentationDataset
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.data.subset import Subset

DATA = Path(os.path.expandvars("$SEGPROTO_DATA"))
EVERYWHERE = ["grass", "sky", "road", "water"]  # tags cannot tell classes apart that are nearly everywhere
CLOTHES = {  # so are skin, hair and shoes: background
    "top": [5, 38, 51, 48, 49, 54, 26, 22, 55],
    "coat": [13, 24, 4, 10, 11, 46],
    "dress": [14, 35, 6],
    "trousers": [31, 25, 27],
    "skirt": [42],
    "shorts": [40],
    "bag": [2, 33, 56],
    "hat": [20],
    "glasses": [47, 17],
    "scarf": [37],
}
CLOTHES_SIZE = (400, 272)


def tagged_set(name: str, every: int, out: Path) -> tuple[SegmentationDataset, SegmentationDataset, tuple[int, int]]:
    """Every n-th training image, the held-out images, and the (height, width) of the training images.

    Args:
        name: ``msrc`` or ``clothes``.
        every: n.
        out: where the clothes are cut to one size (at the top left, by 10 to 15 rows and 3 columns).
    """
    if name == "msrc":
        config = DataConfig(name="folder", root=DATA / "msrc21", classes="msrc21", merge={"background": EVERYWHERE})
    else:
        config = DataConfig(name="folder", root=cut_clothes(out / "clothes"))
    train, val = (build_dataset(config, split) for split in ("train", "val"))
    size = (240, 320) if name == "msrc" else CLOTHES_SIZE
    wide = [i for i in range(len(train)) if train[i].image.shape[2] == size[1]]
    return Subset(train, wide[::every]), val, size


def cut_clothes(root: Path) -> Path:
    """The photos of clothes at one size, ten kinds of clothes and a background; every fifth is held out."""
    if (root / "classes.yaml").is_file():
        return root
    height, width = CLOTHES_SIZE
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True, exist_ok=True)
        for file in sorted((DATA / "ccp500_half" / kind).iterdir()):
            pixels = np.asarray(Image.open(file))
            rows, columns = max(height - pixels.shape[0], 0), max(width - pixels.shape[1], 0)
            padding = [(0, rows), (0, columns)]
            if pixels.ndim == 3:
                padding.append((0, 0))
            pixels = np.pad(pixels, padding)
            Image.fromarray(pixels[:height, :width]).save(root / kind / f"{file.stem}.png")
    named = [value for values in CLOTHES.values() for value in values]
    rest = [value for value in range(59) if value not in named]
    classes = [{"name": name, "values": values} for name, values in {"background": rest, **CLOTHES}.items()]
    table = {"classes": classes, "split": {"val_pattern": "[05]$"}}
    (root / "classes.yaml").write_text(yaml.safe_dump(table))
    return root
