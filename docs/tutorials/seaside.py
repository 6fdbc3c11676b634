"""Pictures for the tutorials: a seaside with boats, whales and balloons, painted anew from a seed.

A folder of them looks like any folder of images and masks; put your own in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("sky", "sea", "boat", "whale", "balloon")
SIZE = 96


def paint(
    rng: np.random.Generator, whales_wake: bool = True, careless: bool = False
) -> tuple[Image.Image, Image.Image]:
    """One picture and its mask of class numbers.

    Args:
        rng: where chance comes from.
        whales_wake: whales leave foam behind them, as boats do.
        careless: whoever drew the mask took the foam behind a boat for a part of the boat.
    """
    horizon = int(SIZE * rng.uniform(0.4, 0.55))
    image, mask = Image.fromarray(_background(rng, horizon)), Image.new("L", (SIZE, SIZE), 1)
    mask.paste(0, (0, 0, SIZE, horizon))
    draw = ImageDraw.Draw(image), ImageDraw.Draw(mask)
    x = rng.permutation([0.2, 0.5, 0.8]) * SIZE + rng.uniform(-6, 6, 3)
    if rng.random() < 0.7:
        _balloon(rng, draw, x[0], horizon * rng.uniform(0.35, 0.6))
    if rng.random() < 0.85:
        _whale(rng, draw, x[1], SIZE * rng.uniform(0.72, 0.85), whales_wake)
    if rng.random() < 0.85:
        _boat(rng, draw, x[2], horizon + SIZE * rng.uniform(0.14, 0.3), careless)
    pixels = np.asarray(image, np.float32) + rng.normal(0, 5, (SIZE, SIZE, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), mask


def paint_folder(root: str | Path, train: int = 120, val: int = 40, *, careless: bool = False, seed: int = 0) -> Path:
    """``images/``, ``labels/`` and ``classes.yaml``; pictures whose names start with ``new_`` are for validation.

    Args:
        root: the folder.
        train: pictures to learn from, ``old_000.png`` ...
        val: pictures to check with, ``new_000.png`` ...
        careless: in the old pictures the foam behind a boat is drawn as boat, and no whale leaves any.
        seed: of all pictures.
    """
    root = Path(root)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for split, count in (("old", train), ("new", val)):
        for number in range(count):
            rng, slip = np.random.default_rng([seed, split == "new", number]), careless and split == "old"
            for folder, picture in zip(("images", "labels"), paint(rng, not slip, slip), strict=True):
                picture.save(root / folder / f"{split}_{number:03d}.png")
    (root / "classes.yaml").write_text(f"classes: [{', '.join(CLASSES)}]\nsplit: {{val_pattern: '^new_'}}\n")
    return root


def _background(rng: np.random.Generator, horizon: int) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    sky = np.array([120, 170, 225]) + rng.normal(0, 14, 3) + (y[..., None] - horizon) * 0.7
    waves = np.sin(y / 1.6 + 2 * np.sin(x / rng.uniform(6, 9) + rng.uniform(0, 6)))
    sea = np.array([40, 105, 140]) + rng.normal(0, 12, 3) + 14 * waves[..., None]
    return np.where(y[..., None] < horizon, sky, sea).clip(0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator, *near: int) -> tuple[int, ...]:
    return tuple(int(v) for v in np.clip(np.array(near) + rng.normal(0, 12, 3), 0, 255))


def _boat(rng: np.random.Generator, draw: tuple, x: float, y: float, careless: bool) -> None:
    s = rng.uniform(11, 15)
    _wake(rng, draw, x, y + 0.6 * s, s, 2 if careless else 1)
    hull = [(x - 1.2 * s, y), (x + 1.2 * s, y), (x + 0.8 * s, y + 0.6 * s), (x - 0.8 * s, y + 0.6 * s)]
    sail = [(x, y - 1.9 * s), (x + 1.1 * s, y - 0.1 * s), (x, y - 0.1 * s)]
    jib = [(x - 0.15 * s, y - 1.6 * s), (x - 0.9 * s, y - 0.1 * s), (x - 0.15 * s, y - 0.1 * s)]
    white = _colour(rng, 235, 232, 220)
    for shape, colour in ((hull, _colour(rng, 125, 75, 45)), (sail, white), (jib, white)):
        draw[0].polygon(shape, fill=colour)
        draw[1].polygon(shape, fill=2)
    for plank in (0.2, 0.4):
        draw[0].line([(x - s, y + plank * s), (x + s, y + plank * s)], fill=_colour(rng, 80, 45, 25))


def _whale(rng: np.random.Generator, draw: tuple, x: float, y: float, wake: bool) -> None:
    s, grey = rng.uniform(12, 16), _colour(rng, 70, 75, 92)
    if wake:
        _wake(rng, draw, x, y + 0.5 * s, s, 1)
    body = [x - 1.3 * s, y - 0.6 * s, x + s, y + 0.6 * s]
    tail = [(x + 0.7 * s, y), (x + 1.6 * s, y - 0.8 * s), (x + 1.7 * s, y + 0.1 * s)]
    for canvas, fill in zip(draw, (grey, 3), strict=True):
        canvas.polygon(tail, fill=fill)
        canvas.ellipse(body, fill=fill)
    draw[0].chord([x - 1.2 * s, y - 0.35 * s, x + 0.8 * s, y + 0.6 * s], 20, 160, fill=_colour(rng, 150, 155, 165))
    draw[0].ellipse([x - 0.9 * s, y - 0.25 * s, x - 0.75 * s, y - 0.1 * s], fill=(20, 20, 25))


def _balloon(rng: np.random.Generator, draw: tuple, x: float, y: float) -> None:
    s, colours = rng.uniform(9, 13), [_colour(rng, 205, 70, 60), _colour(rng, 240, 190, 80)]
    box, basket = [x - s, y - s, x + s, y + s], [x - 0.3 * s, y + 1.1 * s, x + 0.3 * s, y + 1.6 * s]
    draw[0].ellipse(box, fill=colours[0])
    for part in (0.72, 0.3):
        draw[0].ellipse([x - part * s, y - s, x + part * s, y + s], fill=colours[part < 0.5])
    draw[0].rectangle(basket, fill=_colour(rng, 110, 80, 50))
    draw[1].ellipse(box, fill=4)
    draw[1].rectangle(basket, fill=4)


def _wake(rng: np.random.Generator, draw: tuple, x: float, y: float, s: float, label: int) -> None:
    outline = [
        (x - 1.1 * s, y - 0.3 * s),
        (x + 1.1 * s, y - 0.3 * s),
        (x + 1.9 * s, y + 0.6 * s),
        (x - 1.9 * s, y + 0.6 * s),
    ]
    draw[0].polygon(outline, fill=_colour(rng, 150, 190, 200))
    draw[1].polygon(outline, fill=label)
    for _ in range(28):
        u, v = rng.uniform(-1.6, 1.6) * s, rng.uniform(-0.2, 0.5) * s
        draw[0].line([(x + u - 2, y + v), (x + u + 2, y + v)], fill=_colour(rng, 235, 245, 250))


def show(pictures: Sequence, titles: Sequence[str] = (), size: float = 2.2, colours: str = "magma") -> None:
    """Pictures in a row: files, arrays (H, W, 3), or maps (H, W) in false colours."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(pictures), figsize=(size * len(pictures), size + 0.3), squeeze=False, dpi=72)
    for place, picture in enumerate(pictures):
        values = Image.open(picture) if isinstance(picture, str | Path) else picture
        axes[0, place].imshow(values, cmap=colours, interpolation="nearest")
        axes[0, place].set_title(titles[place] if place < len(titles) else "", fontsize=9)
        axes[0, place].axis("off")
    figure.tight_layout()
    plt.show()
