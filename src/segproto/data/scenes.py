"""Generated scenes: sky, ground and six kinds of objects made of textured parts, at several depths, with occlusion.

Colours are drawn anew for every surface of every image from one palette that all classes share: colour tells
nothing, shapes and textures do. Image ``index`` of a split is a pure function of (settings, seed, split, index).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor

from segproto.data.base import ClassTable, Sample, SegmentationDataset
from segproto.data.kind import DataKind
from segproto.data.palette import default_colours
from segproto.data.scene_objects import KINDS, Array, Kind, rows

SKY, GROUND = 0, 1
CLASSES = ClassTable(("sky", "ground", *(kind.name for kind in KINDS)), default_colours(2 + len(KINDS)))
_FIRST_PART = tuple(1 + sum(len(k.parts) for k in KINDS[:i]) for i in range(len(KINDS)))
PART_NAMES = {
    first + j: f"{kind.name} {part.name}"
    for kind, first in zip(KINDS, _FIRST_PART, strict=True)
    for j, part in enumerate(kind.parts)
}
_VERSION = 1  # raise it whenever the pictures change: it keys caches
_SPLIT_STREAM = {"train": 0, "val": 1}
_CONTRAST = 0.3  # of textures, relative to the surface's colour
_STRIPES = 0.0625  # period of a mark's, of the image's side
_CACHE_BYTES = 2**28
_PALETTE = np.array(
    [
        (200, 60, 60),
        (70, 150, 70),
        (70, 100, 190),
        (205, 170, 60),
        (140, 80, 160),
        (70, 165, 170),
        (160, 110, 70),
        (190, 130, 150),
        (130, 135, 140),
        (110, 120, 50),
    ],
    dtype=np.float32,
)


class MarkConfig(BaseModel):
    """A planted shortcut: a small square of stripes, as of a wall, on every object of some classes.

    Labels say nothing of it.

    Attributes:
        train: classes that carry it in training images.
        val: classes that carry it in validation images: none, or others than in training.
        size: side of the square, as a share of the image's.
    """

    model_config = ConfigDict(extra="forbid")

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    size: float = Field(default=0.15, gt=0, le=0.5)

    @field_validator("train", "val")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in CLASSES.names[GROUND + 1 :]:
                raise ValueError(f"{name}: no such object; expected one of {', '.join(CLASSES.names[GROUND + 1 :])}")
        return value


class ScenesConfig(BaseModel):
    """Generated scenes.

    Attributes:
        num_train: training images.
        num_val: validation images (never the same as a training image).
        size: side of the square images in pixels.
        seed: of the generator; each (seed, split, index) gives one image for ever.
        objects: fewest and most objects a scene is asked to have.
        mark: what carries a mark that is no part of it.
    """

    model_config = ConfigDict(extra="forbid")

    num_train: int = Field(default=512, ge=1, le=10**7)
    num_val: int = Field(default=96, ge=1, le=10**7)
    size: int = Field(default=128, ge=32, le=2048)
    seed: int = Field(default=0, ge=0)
    objects: tuple[int, int] = (2, 4)
    mark: MarkConfig = MarkConfig()

    @model_validator(mode="after")
    def _ordered(self) -> ScenesConfig:
        low, high = self.objects
        if not 0 <= low <= high <= 32:
            raise ValueError(f"objects must be [fewest, most] within 0..32, got {list(self.objects)}")
        return self


class Scene(NamedTuple):
    """One picture: ``image`` uint8 (H, W, 3), ``mask`` uint8 (H, W) of classes, ``parts`` uint8 (H, W), 0 = no part."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    parts: NDArray[np.uint8]


def render(config: ScenesConfig, split: str, index: int) -> Scene:
    """Paints one scene, back to front.

    Args:
        config: size, seed and number of objects.
        split: ``train`` or ``val``: two separate streams of images.
        index: which image, >= 0.
    """
    rng = np.random.Generator(np.random.PCG64([config.seed, _SPLIT_STREAM[split], index]))
    size = config.size
    horizon = int(size * rng.uniform(0.4, 0.58))
    canvas, mask = np.empty((size, size, 3), np.float32), np.full((size, size), GROUND, np.uint8)
    parts = np.zeros((size, size), np.uint8)
    colours = rng.permutation(len(_PALETTE))
    canvas[:horizon], mask[:horizon] = _sky(rng, horizon, _PALETTE[colours[0]]), SKY
    canvas[horizon:] = _ground(rng, size - horizon, size, _PALETTE[colours[1]])
    marked = config.mark.train if split == "train" else config.mark.val
    for kind, height, top, left in _layout(rng, config, horizon):
        inside = _paint(rng, (canvas, mask, parts), kind, height, (top, left), colours[2:])
        if KINDS[kind].name in marked and inside.any():
            colour = _PALETTE[colours[(index + len(KINDS)) % len(colours)]]
            _paint_mark(canvas, inside, max(round(config.mark.size * size), 3), colour)
    image = canvas + rng.integers(-6, 7, size=(size, size, 1), dtype=np.int8)
    return Scene(np.clip(image, 0, 255).astype(np.uint8), mask, parts)


def _tint(rng: np.random.Generator, colour: Array) -> Array:
    return (colour * rng.uniform(0.75, 1.25) + rng.uniform(-14, 14, 3)).astype(np.float32)


def _sky(rng: np.random.Generator, height: int, colour: Array) -> Array:
    fade = np.linspace(0.75, 1.2, height, dtype=np.float32)[:, None, None]
    return fade * _tint(rng, colour)


def _ground(rng: np.random.Generator, height: int, width: int, colour: Array) -> Array:
    grain = max(round(width / 64), 1)
    noise = rng.random((-(-height // grain), -(-width // grain)), dtype=np.float32)
    shade = 1 + _CONTRAST * 1.6 * (noise - 0.5)
    shade = shade.repeat(grain, 0)[:height].repeat(grain, 1)[:, :width]
    return shade[..., None] * _tint(rng, colour)


def _layout(rng: np.random.Generator, config: ScenesConfig, horizon: int) -> list[tuple[int, int, int, int]]:
    """(kind, height, top, left) of each object in pixels, farthest first; near objects are large and low."""
    size, count = config.size, int(rng.integers(config.objects[0], config.objects[1] + 1))
    slots = (rng.permutation(count) + rng.uniform(0.2, 0.8, count)) / max(count, 1)
    placed = []
    for depth, x, number in zip(np.sort(rng.random(count)), slots, rng.integers(0, len(KINDS), count), strict=True):
        kind = KINDS[number]
        height = int(size * (0.36 + 0.26 * depth) * kind.height)
        if kind.flies:
            top = int(rng.uniform(-0.05, 0.3) * size)
        else:
            top = int(horizon + (0.1 + 0.85 * depth) * (size - horizon)) - height
        placed.append((int(number), height, top, int(x * size - height * kind.aspect / 2)))
    return placed


def _paint(
    rng: np.random.Generator,
    layers: tuple[Array, NDArray[np.uint8], NDArray[np.uint8]],
    number: int,
    height: int,
    corner: tuple[int, int],
    colours: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Paints object ``KINDS[number]`` into the picture, the mask and the part map; where it lies, bool (H, W)."""
    kind: Kind = KINDS[number]
    (top, left), width, size = corner, int(height * kind.aspect), layers[1].shape[0]
    y0, y1, x0, x1 = max(top, 0), min(top + height, size), max(left, 0), min(left + width, size)
    painted = np.zeros((size, size), bool)
    if y0 >= y1 or x0 >= x1:
        return painted
    y = np.arange(y0 - top, y1 - top, dtype=np.float32)[:, None]
    x = np.arange(x0 - left, x1 - left, dtype=np.float32)[None]
    u, v = (x + np.float32(0.5)) / np.float32(width), (y + np.float32(0.5)) / np.float32(height)
    if rng.random() < 0.5:
        u = 1 - u
    chosen = rng.choice(colours, len(kind.parts), replace=False)
    window = np.s_[y0:y1, x0:x1]
    canvas, mask, parts = (layer[window] for layer in layers)
    for j, part in enumerate(kind.parts):
        inside = np.broadcast_to(part.shape(u, v), mask.shape)
        period = max(part.coarse * height * rng.uniform(0.85, 1.15), 3.0)
        shade = 1 + _CONTRAST * part.texture(x, y, period)
        np.copyto(canvas, shade[..., None] * _tint(rng, _PALETTE[chosen[j]]), where=inside[..., None])
        mask[inside] = 2 + number
        parts[inside] = _FIRST_PART[number] + j
        painted[window] |= inside
    return painted


def _paint_mark(canvas: Array, inside: NDArray[np.bool_], side: int, colour: Array) -> None:
    """Stripes in a square around the pixel of an object that is nearest to its middle, as far as the object reaches."""
    size = len(canvas)
    ys, xs = np.nonzero(inside)
    middle = int(((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2).argmin())
    top, left = max(int(ys[middle]) - side // 2, 0), max(int(xs[middle]) - side // 2, 0)
    window = np.s_[top : top + side, left : left + side]
    y, x = (np.arange(length, dtype=np.float32) for length in inside[window].shape)
    shade = 1 + _CONTRAST * rows(x[None], y[:, None], max(_STRIPES * size, 3.0))
    np.copyto(canvas[window], shade[..., None] * colour, where=inside[window][..., None])


class ScenesDataset(SegmentationDataset):
    """Generated scenes as a data set; every image has part maps and image-level labels.

    Args:
        config: the settings.
        split: ``train`` or ``val``.
    """

    def __init__(self, config: ScenesConfig, split: str) -> None:
        self.config = config
        self.split = split
        self.classes = CLASSES
        count = config.num_train if split == "train" else config.num_val
        self.names = tuple(f"{split}_{i:05d}" for i in range(count))
        self._scenes: dict[int, Scene] = {}

    def scene(self, index: int) -> Scene:
        """One picture as arrays; painted once, then kept (up to 256 MiB a data set)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        scene = self._scenes.get(index)
        if scene is None:
            scene = render(self.config, self.split, index)
            if 5 * self.config.size**2 * (len(self._scenes) + 1) <= _CACHE_BYTES:
                self._scenes[index] = scene
        return scene

    def __getitem__(self, index: int) -> Sample:
        scene = self.scene(index)
        image = torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))
        return Sample(image, torch.from_numpy(scene.mask.copy()), self.names[index])

    def parts(self, index: int) -> Tensor:
        return torch.from_numpy(self.scene(index).parts.astype(np.int64))

    @property
    def part_names(self) -> dict[int, str]:
        return PART_NAMES

    def tags(self, index: int) -> Tensor:
        """Image-level labels, bool (C,): the classes that have a visible pixel."""
        counts = np.bincount(self.scene(index).mask.ravel(), minlength=self.classes.num_classes)
        return torch.from_numpy(counts > 0)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_scenes": {}}  # loading processes paint for themselves

    @property
    def fingerprint(self) -> str:
        settings: tuple[object, ...] = (
            *(_VERSION, self.split, len(self), self.config.size, self.config.seed, self.config.objects),
            *(
                (self.config.mark,) if self.config.mark != MarkConfig() else ()
            ),  # without one as before there were marks
        )
        return hashlib.sha256(repr(settings).encode()).hexdigest()[:16]


def scenes_words(data: Mapping[str, Any]) -> str:
    """The data set in a few words, from its resolved settings."""
    return f"generated scenes, {data['scenes']['num_train']} to train, {data['scenes']['num_val']} to validate"


SCENES = DataKind(
    name="scenes",
    title="generated scenes with parts; needs no files",
    open=lambda config, split: ScenesDataset(config.scenes, split),
    words=scenes_words,
)
