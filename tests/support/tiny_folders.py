"""A folder of images and masks, for tests of what a user's own data become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def folder(root: Path, value: int, classes: str, count: int = 5, side: int = 16) -> Path:
    """Images with a square of ``value`` on 0."""
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for i in range(count):
        mask = np.zeros((32, 32), np.uint8)
        mask[:side, :side] = value
        pixels = rng.integers(0, 80, (32, 32, 3), dtype=np.uint8) + (mask[..., None] > 0) * np.uint8(120)
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
        Image.fromarray(mask).save(root / "labels" / f"{i}.png")
    (root / "classes.yaml").write_text(classes)
    return root
