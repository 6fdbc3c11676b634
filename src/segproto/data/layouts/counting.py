"""Which values or colours the masks of a folder hold, and how many pixels of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segproto.data.archives import Member
from segproto.data.drawn import Drawn
from segproto.data.images import ColouredMask, open_picture, read_colours, read_stored
from segproto.data.suffixes import LOSSY_SUFFIXES
from segproto.data.tiff_pages import Page
from segproto.errors import DataError

Progress = Callable[[str, int, int], None]


@dataclass
class Values:
    """What masks hold.

    Attributes:
        coloured: colours ``0xRRGGBB``, not numbers.
        lossy: some masks are JPEG or WebP, whose values are not those that were drawn.
        masks: how many were read.
        pixels: of each value.
        images: how many masks show each value.
        solid: values that fill 3 x 3 pixels somewhere, which mixed colours of borders do not.
        palette: number to colour, of masks with a palette.
        problems: a line for each mask that cannot be read.
    """

    coloured: bool = False
    lossy: bool = False
    masks: int = 0
    pixels: Counter[int] = field(default_factory=Counter)
    images: Counter[int] = field(default_factory=Counter)
    solid: set[int] = field(default_factory=set)
    palette: dict[int, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Pixels of all masks."""
        return sum(self.pixels.values())

    def share(self, value: int) -> float:
        """Of all pixels."""
        return self.pixels[value] / max(self.total, 1)

    def add(self, stored: NDArray[np.int64] | NDArray[np.uint8]) -> None:
        """Counts one mask (H, W)."""
        values, counts = np.unique(stored, return_counts=True)
        self.pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        self.images.update(values.tolist())
        self.masks += 1
        if not {*values.tolist()} <= self.solid:
            self.solid.update(np.unique(stored[uniform(stored)]).tolist())


def uniform(stored: NDArray[np.int64] | NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels (H, W) whose eight neighbours hold the same; none on the border."""
    height, width = stored.shape
    same = np.zeros((height, width), dtype=bool)
    if height < 3 or width < 3:
        return same
    core = stored[1:-1, 1:-1]
    inner = np.ones(core.shape, dtype=bool)
    for dy in range(3):
        for dx in range(3):
            inner &= stored[dy : height - 2 + dy, dx : width - 2 + dx] == core
    same[1:-1, 1:-1] = inner
    return same


def count_values(masks: Sequence[Path | Member | Drawn], progress: Progress | None = None) -> Values:
    """Reads all masks; where one is coloured, the colours of all."""
    try:
        return _count(masks, False, progress)
    except ColouredMask:
        return _count(masks, True, progress)


def _count(masks: Sequence[Path | Member | Drawn], coloured: bool, progress: Progress | None) -> Values:
    values = Values(coloured=coloured)
    for done, mask in enumerate(masks, 1):
        try:
            values.add(read_colours(mask) if coloured else read_stored(mask))  # type: ignore[arg-type]
            if not coloured and not isinstance(mask, Drawn | Page) and not values.palette:
                values.palette = palette_of(mask)
        except ColouredMask:
            raise
        except DataError as error:
            values.problems.append(str(error))
        values.lossy = values.lossy or mask.suffix.lower() in LOSSY_SUFFIXES
        if progress is not None:
            progress("masks", done, len(masks))
    return values


def palette_of(mask: Path | Member) -> dict[int, int]:
    """Number to colour ``0xRRGGBB`` of a mask with a palette; empty for others, and for palettes of gray."""
    with open_picture(mask) as picture:
        stored = picture.getpalette("RGB") if picture.mode == "P" else None
    if not stored:
        return {}
    colours = {i: tuple(stored[3 * i : 3 * i + 3]) for i in range(len(stored) // 3)}
    if all(red == green == blue for red, green, blue in colours.values()):
        return {}
    return {i: red << 16 | green << 8 | blue for i, (red, green, blue) in colours.items()}
