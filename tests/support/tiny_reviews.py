"""A folder of images and masks with odd class names, and a run on it that doubts some: for tests of what is decided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from tiny_runs import GROUPS, SMALL

import segproto

NAMES = ("sky", "<b>roof</b>", 'the "road"', "grass")  # as somebody may have called them
COLOURS = ((30, 40, 200), (200, 60, 30), (40, 200, 60), (220, 220, 210))
VALUES = (10, 20, 30, 40)  # of the mask files


def quarters(root: Path, count: int = 8) -> Path:
    """Images of four quarters in the colours of their classes, in an order that changes."""
    for split, letter, number in (("train", "t", count), ("val", "v", 2)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(number):
            rng = np.random.default_rng(i if split == "train" else 100 + i)
            mask = np.kron(rng.permutation(4).reshape(2, 2), np.ones((32, 32), np.int64))
            pixels = (np.array(COLOURS)[mask] + rng.integers(-9, 10, (64, 64, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / f"{letter}{i}.png")
            Image.fromarray(np.array(VALUES, np.uint8)[mask]).save(root / "labels" / split / f"{letter}{i}.png")
    classes = [{"name": name, "values": value} for name, value in zip(NAMES, VALUES, strict=True)]
    (root / "classes.yaml").write_text(yaml.safe_dump({"classes": classes}))
    return root


def train_on_quarters(out: Path, root: Path, recipe: str = "scaleproto/scenes") -> Path:
    """A few steps on :func:`quarters`."""
    data = ["data.name=folder", f"data.root={root}"]
    groups = GROUPS if recipe.startswith("scaleproto") else []
    small = [item for item in SMALL if not item.startswith("data.scenes")]
    segproto.train(recipe, out=out, overrides=[*small, *groups, *data], quiet=True)
    return out
