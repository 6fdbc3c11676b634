"""Squares cut from the large TIFF files of an aerial survey and halved, as work without labels uses Potsdam."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segproto.data.archives import Member, Stat, Tree
from segproto.data.tiff import open_tiff, read_array
from segproto.errors import DataError

SIDE = 200  # of a tile; a square of twice this side is read
# By the bits (red, green, blue): road, building, low vegetation, tree, car, clutter; black and magenta are none.
COLOURS = np.array([255, 1, 3, 2, 5, 255, 4, 0], np.uint8)
LABELLED = frozenset(  # areas whose labels were published first
    f"{north}_{east}"
    for north, easts in ((2, (10, 13)), (3, (10, 13)), (4, (10, 13)), (5, (10, 13)), (6, (7, 13)), (7, (7, 13)))
    for east in range(*easts)
)
TEST_SHARE, SEED = 855 / 5400, 42


@dataclass(frozen=True)
class Crop:
    """One tile of a TIFF file; stands where a path of a picture is expected.

    Attributes:
        file: the TIFF, which may lie in a zip archive.
        row: of the tile, from 0.
        column: of the tile.
    """

    file: Path | Member
    row: int
    column: int

    def __str__(self) -> str:
        return f"{self.file} (tile {self.row}, {self.column})"

    suffix = ".crop"

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def stem(self) -> str:
        return f"{self.file.stem}_{self.row}_{self.column}"

    def stat(self) -> os.stat_result | Stat:
        """Of the whole file."""
        return self.file.stat()

    def square(self) -> NDArray[np.uint8]:
        """The square that the tile halves, (400, 400, channels).

        Raises:
            DataError: naming the file: unreadable, or smaller.
        """
        top, left, side = self.row * 2 * SIDE, self.column * 2 * SIDE, 2 * SIDE
        rows = read_rows(self.file, top, top + side)
        part = rows[:, left : left + side] if rows.ndim == 3 else rows
        if part.ndim != 3 or part.shape[:2] != (side, side) or part.shape[2] < 3 or part.dtype != np.uint8:
            kind = f"{part.dtype} {part.shape}"
            raise DataError(f"{self}: is {kind}, expected 8-bit colours of {side}x{side} pixels")
        return part

    def image(self) -> NDArray[np.uint8]:
        """RGB (200, 200, 3): means of 2x2 pixels."""
        part = self.square()[..., :3].astype(np.uint16)
        pairs = part[0::2] + part[1::2]
        return ((pairs[:, 0::2] + pairs[:, 1::2] + 2) >> 2).astype(np.uint8)

    def labels(self) -> NDArray[np.uint8]:
        """Classes 0..5 of the colours (200, 200), 255 = none: the upper left of 2x2 pixels."""
        bits = self.square()[::2, ::2, :3] > 127  # some label files hold 252 for 255
        return COLOURS[bits @ np.array([4, 2, 1], np.uint8)]


def read_rows(file: Path | Member, top: int, stop: int) -> NDArray[Any]:
    """Rows ``top..stop - 1`` of a TIFF, (rows, width, channels); only the strips that hold them are decoded."""
    import tifffile

    with open_tiff(file) as tiff:
        page = tiff.pages.first
        if page.is_final and page.dtype is not None:  # neither compressed nor in pieces
            row = page.nbytes // page.shape[0]
            tiff.filehandle.seek(page.dataoffsets[0] + top * row)
            content = tiff.filehandle.read(max(0, min(stop, page.shape[0]) - top) * row)
            return np.frombuffer(content, page.dtype.newbyteorder(tiff.byteorder)).reshape(-1, *page.shape[1:])
        if page.is_tiled or page.planarconfig != tifffile.PLANARCONFIG.CONTIG:
            return whole(file, file.stat().st_mtime_ns)[top:stop]
        rows = page.rowsperstrip
        strips = list(range(top // rows, min(-(-stop // rows), len(page.dataoffsets))))
        parts = []
        for i in strips:
            tiff.filehandle.seek(page.dataoffsets[i])
            part = page.decode(tiff.filehandle.read(page.databytecounts[i]), i)[0]
            if part is None:
                raise ValueError(f"strip {i} is missing")
            parts.append(part.reshape(-1, *part.shape[-2:]))
        lines = np.concatenate(parts)
        start = top - strips[0] * rows
        return lines[start : start + stop - top]


@lru_cache(maxsize=1)
def whole(file: Path | Member, age: int) -> NDArray[Any]:
    """All of a TIFF that cannot be read in parts."""
    with open_tiff(file) as tiff:
        return read_array(tiff, stack=False)


def potsdam_tiles(tree: Tree, split: str) -> tuple[dict[str, Crop], dict[str, Crop]]:
    """Tiles of Potsdam's original files and of their labels, by name ``AREA_ROW_COLUMN``.

    The 24 areas whose labels were published first are cut into 15x15 tiles, row by row, in the order of their files'
    names; 855 of the 5,400 tiles are validation. The published draw had no seed; this one has seed 42.

    Args:
        tree: holds ``top_potsdam_*_RGBIR.tif`` (or ``_RGB.tif``) and ``top_potsdam_*_label.tif``, in any folders or
            zip archives.
        split: ``train`` or ``val``.

    Returns:
        Images and masks; empty if there are no such files.
    """
    labels = areas(tree, "label")
    pictures = areas(tree, "RGBIR") or areas(tree, "RGB")
    names = [area for area in pictures if area in labels and area in LABELLED]
    sides = {area: grid(pictures[area]) for area in names}
    tiles = [(area, r, c) for area in names for r in range(sides[area][0]) for c in range(sides[area][1])]
    drawn = np.random.RandomState(SEED).choice(len(tiles), round(TEST_SHARE * len(tiles)), replace=False)
    val = set(drawn.tolist())
    chosen = [tile for i, tile in enumerate(tiles) if (i in val) == (split == "val")]
    images, masks = (
        {f"{area}_{r:02d}_{c:02d}": Crop(files[area], r, c) for area, r, c in chosen} for files in (pictures, labels)
    )
    return images, masks


def areas(tree: Tree, ending: str) -> dict[str, Path | Member]:
    """Area (``2_10``) to the file of it with this ending, in the order of the files' names."""
    files = sorted(tree.files("", f"_{ending}.tif").values(), key=lambda file: file.name)
    matches = [(re.fullmatch(rf"top_potsdam_(\d+_\d+)_{ending}\.tif", file.name), file) for file in files]
    return {match[1]: file for match, file in matches if match}


def grid(file: Path | Member) -> tuple[int, int]:
    """Rows and columns of tiles in a file.

    Raises:
        DataError: it is no TIFF.
    """
    with open_tiff(file) as tiff:
        height, width = tiff.pages.first.shape[:2]
    return height // (2 * SIDE), width // (2 * SIDE)
