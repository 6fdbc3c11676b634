"""Masks drawn from shapes: polygons, boxes, ellipses, run lengths and small bitmaps, as annotation tools store them.

A pixel belongs to a polygon if its centre lies inside (even-odd: a ring inside a ring is a hole), as GDAL and
matplotlib have it; pycocotools differs by up to half a pixel. Shapes are drawn in their order; where two overlap, the
later one counts.
"""

from __future__ import annotations

import io
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segproto.data.archives import Stat
from segproto.data.drawn import Drawn
from segproto.data.images import MAX_PIXELS, open_picture, open_stored
from segproto.data.layouts.listing import File
from segproto.data.layouts.run_lengths import unpack_brush
from segproto.errors import DataError

Mask = NDArray[np.bool_]
Ring = NDArray[np.float64]  # (N, 2): x, y
HALF = 127
ROUND = 72  # corners of a polygon that stands for an ellipse


class Part(NamedTuple):
    """A region of an image.

    Attributes:
        x: left column.
        y: top row.
        inside: (h, w), which pixels from there belong to it.
    """

    x: int
    y: int
    inside: Mask


class Shape(ABC):
    """A region of one label.

    Attributes:
        number: of the label.
    """

    number: int

    @abstractmethod
    def region(self, height: int, width: int) -> Part:
        """The pixels that it covers in an image of so many rows and columns; it may reach beyond.

        Raises:
            ValueError: it does not fit an image of this size, or is damaged.
        """

    @abstractmethod
    def content(self) -> bytes:
        """What changes when the shape does."""


@dataclass(frozen=True, eq=False)
class Polygon(Shape):
    """Rings of corners, x to the right and y down, 0 at the upper left corner of the image.

    Attributes:
        number: of the label.
        rings: of one shape; a ring inside another is a hole.
        unit: corners are shares of width and height, not pixels.
    """

    number: int
    rings: tuple[Ring, ...]
    unit: bool = False

    def region(self, height: int, width: int) -> Part:
        scale = np.array([width, height], np.float64) if self.unit else 1.0
        return fill([ring * scale for ring in self.rings], height, width)

    def content(self) -> bytes:
        return b"".join(ring.tobytes() for ring in self.rings)


@dataclass(frozen=True, eq=False)
class Runs(Shape):
    """Run lengths of pixels outside and inside by turns, the first ones outside.

    Attributes:
        number: of the label.
        lengths: of the runs.
        by_columns: runs go down the columns (COCO), not along the rows (CVAT).
        box: (x, y, width, height) that they fill; None: the whole image.
        size: (height, width) they were made for, where told.
    """

    number: int
    lengths: NDArray[np.int64]
    by_columns: bool
    box: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None

    def region(self, height: int, width: int) -> Part:
        if self.size is not None and self.size != (height, width):
            raise ValueError(f"run lengths for {self.size[1]}x{self.size[0]} pixels, the image has {width}x{height}")
        x, y, across, down = self.box or (0, 0, width, height)
        if self.lengths.sum() != across * down or (len(self.lengths) and self.lengths.min() < 0):
            raise ValueError(f"run lengths of {int(self.lengths.sum())} pixels for {across}x{down}")
        inside = np.repeat(np.arange(len(self.lengths)) % 2 == 1, self.lengths)
        part = inside.reshape(across, down).T if self.by_columns else inside.reshape(down, across)
        return Part(x, y, part)

    def content(self) -> bytes:
        return self.lengths.tobytes()


@dataclass(frozen=True, eq=False)
class Bitmap(Shape):
    """A small picture whose non-zero pixels count (labelme, Supervisely); of several channels the last one.

    Attributes:
        number: of the label.
        png: the picture file.
        x: of its left column in the image.
        y: of its top row.
    """

    number: int
    png: bytes
    x: int = 0
    y: int = 0

    def region(self, height: int, width: int) -> Part:
        with open_stored(io.BytesIO(self.png), "the bitmap of a shape") as picture:
            values = np.asarray(picture)
        return Part(self.x, self.y, (values[..., -1] if values.ndim == 3 else values) > 0)

    def content(self) -> bytes:
        return self.png


@dataclass(frozen=True, eq=False)
class Brush(Shape):
    """Label Studio's run lengths of an RGBA picture; what is more than half opaque counts.

    Attributes:
        number: of the label.
        rle: the bytes.
        size: (height, width) of the picture.
    """

    number: int
    rle: bytes
    size: tuple[int, int]

    def region(self, height: int, width: int) -> Part:
        if self.size != (height, width):
            raise ValueError(f"a brush for {self.size[1]}x{self.size[0]} pixels, the image has {width}x{height}")
        opaque = unpack_brush(self.rle, height * width * 4).reshape(height, width, 4)[..., 3] > HALF
        return Part(0, 0, opaque)

    def content(self) -> bytes:
        return self.rle


@dataclass(frozen=True, eq=False)
class Layer(Shape):
    """A gray picture file of which what is more than half white counts (Label Studio's brush as PNG).

    Attributes:
        number: of the label.
        file: the picture.
    """

    number: int
    file: File

    def region(self, height: int, width: int) -> Part:
        with open_picture(self.file) as picture:
            values = np.asarray(picture)
        inside: Mask = (values if values.ndim == 2 else values[..., :3].max(-1)) > HALF
        if inside.shape != (height, width):
            raise ValueError(f"{self.file} has {inside.shape[1]}x{inside.shape[0]} pixels, the image {width}x{height}")
        return Part(0, 0, inside)

    def content(self) -> bytes:
        stat = self.file.stat()
        return f"{stat.st_size} {stat.st_mtime_ns}".encode()


def ellipse(x: float, y: float, across: float, down: float, turn: float = 0.0) -> Ring:
    """The corners of an ellipse.

    Args:
        x: of its centre.
        y: of its centre.
        across: half its width.
        down: half its height.
        turn: clockwise, in degrees.
    """
    angle, turned = np.linspace(0, 2 * np.pi, ROUND, endpoint=False), np.deg2rad(turn)
    u, v = across * np.cos(angle), down * np.sin(angle)
    return np.stack([x + u * np.cos(turned) - v * np.sin(turned), y + u * np.sin(turned) + v * np.cos(turned)], axis=1)


def box(x0: float, y0: float, x1: float, y1: float) -> Ring:
    """The corners of an upright rectangle."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)


def fill(rings: Sequence[Ring], height: int, width: int) -> Part:
    """Pixels whose centre lies inside an odd number of the rings.

    Each edge is crossed by the rows whose centres it spans; right of a crossing, inside and outside change places.

    Raises:
        ValueError: fewer than three corners, or one that is no number.
    """
    for ring in rings:
        if len(ring) < 3 or not np.isfinite(ring).all():
            raise ValueError(f"a polygon of {len(ring)} corners" if len(ring) < 3 else "a corner that is no number")
    corners = np.concatenate(rings).clip([0, 0], [width, height])
    (left, top), (right, bottom) = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
    turns = np.zeros((bottom - top, right - left + 1), np.int64)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y0 == y1:
                continue
            first, last = (int(np.ceil(np.clip(y - 0.5, top, bottom))) for y in (min(y0, y1), max(y0, y1)))
            rows = np.arange(first, last)
            crossing = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            columns = np.ceil(np.clip(crossing - 0.5, left, right)).astype(np.int64)
            np.add.at(turns, (rows - top, columns - left), 1)
    return Part(int(left), int(top), np.asarray(np.cumsum(turns, axis=1)[:, :-1] % 2 == 1))


def paint(mask: NDArray[np.uint8] | NDArray[np.int64], part: Part, number: int) -> None:
    """Writes a number where a part lies in a mask (H, W); what lies outside of it is cut off."""
    (height, width), (down, across) = mask.shape, part.inside.shape
    left, top = max(part.x, 0), max(part.y, 0)
    right, bottom = min(part.x + across, width), min(part.y + down, height)
    if left < right and top < bottom:
        inside = part.inside[top - part.y : bottom - part.y, left - part.x : right - part.x]
        mask[top:bottom, left:right][inside] = number


@dataclass(frozen=True, eq=False)
class Shapes(Drawn):
    """A mask of shapes; 0 where none lies.

    Attributes:
        source: the file that holds them.
        image: the image's file, whose size counts where none is told.
        shapes: in the order they are drawn in.
        size: (height, width) that the source tells.
    """

    source: File
    image: File
    shapes: tuple[Shape, ...]
    size: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.source} ({self.image.name})"

    def labels(self) -> NDArray[np.uint8] | NDArray[np.int64]:
        height, width = self.size or self._size_of_image()
        if not 0 < height * width <= MAX_PIXELS:
            raise DataError(f"{self}: {width}x{height} pixels are none or more than the limit of {MAX_PIXELS}")
        wide = any(shape.number > 255 for shape in self.shapes)
        mask = np.zeros((height, width), np.int64 if wide else np.uint8)
        for number, shape in enumerate(self.shapes, 1):
            try:
                paint(mask, shape.region(height, width), shape.number)
            except ValueError as error:
                raise DataError(f"{self}: shape {number} of {len(self.shapes)} cannot be drawn: {error}") from error
        return mask

    def _size_of_image(self) -> tuple[int, int]:
        with open_picture(self.image) as picture:
            return picture.height, picture.width

    def stat(self) -> Stat:
        """Number of shapes and a checksum of them, so that another image's shapes may change."""
        checksum = zlib.crc32(repr([shape.number for shape in self.shapes]).encode())
        for shape in self.shapes:
            checksum = zlib.crc32(shape.content(), checksum)
        return Stat(len(self.shapes), checksum)
