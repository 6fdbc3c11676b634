"""Pictures of any kind and size, read window by window as pixels, and masks written row by row."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from segproto.data.archives import Held
from segproto.data.bands import (
    Stored,
    check_size,
    chosen_bands,
    inside_window,
    knows_inside,
    of_array,
    of_picture,
    open_stored_bands,
    read_window,
)
from segproto.data.base import Sample
from segproto.data.images import MAX_PIXELS
from segproto.data.pixels import PLAIN, PixelRule
from segproto.data.tiff_pages import Page
from segproto.errors import DataError
from segproto.files import fresh, png_chunk, stamped

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike: TypeAlias = "str | Path | Page | Held | Picture | Image | np.ndarray[Any, Any] | Tensor | Sample"


def to_pil(image: Tensor) -> Image:
    """A uint8 image (3 or 4, H, W) as a PIL image."""
    from PIL import Image

    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


@dataclass(frozen=True)
class Picture:
    """An image that is read window by window; never copied whole, never held as floats.

    Attributes:
        name: the file name, or ``image``.
        height: pixels.
        width: pixels.
        read: (y0, x0, y1, x1) in pixels to pixels (N, y1 - y0, x1 - x0) as :mod:`segproto.data.pixels` has them.
        inside: (y0, x0, y1, x1) to where there is an image at all, bool (h, w); None: everywhere.
        orientation: EXIF's, 1..8; it is not applied.
    """

    name: str
    height: int
    width: int
    read: Callable[[int, int, int, int], Tensor]
    inside: Callable[[int, int, int, int], Tensor] | None = None
    orientation: int = 1


def look_at(image: ImageLike, max_pixels: int = MAX_PIXELS, rule: PixelRule = PLAIN) -> Picture:
    """Opens an image without converting it as a whole.

    Args:
        image: a path, a page of a TIFF, a file in memory, a PIL image, an array (H, W) or (H, W, bands), a tensor
            (H, W) or (bands, H, W), or a sample of a data set or a picture, which are taken as they were read. Arrays
            and tensors have the bands that the rule chooses from; without a value range they hold uint8, uint16 (full
            range), or floats in [0, 1].
        max_pixels: larger images are refused; the default is for those that are decoded as a whole, not for TIFFs that
            are read in windows.
        rule: how it is read, see :class:`segproto.data.pixels.PixelRule`; that of a model for the model.

    Raises:
        DataError: naming the file, if it cannot be read, is too large or has not the bands that the rule asks for.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, Sample):
        return as_read(image)
    if isinstance(image, Tensor):
        return _from_tensor(channels_first(image, rule, last=False), max_pixels, rule)
    if isinstance(image, np.ndarray):
        try:
            array = torch.from_numpy(np.ascontiguousarray(image))
        except TypeError:
            raise DataError(f"array of {image.dtype}: pass uint8, uint16, or floats in [0, 1]") from None
        return _from_tensor(channels_first(array, rule, last=True), max_pixels, rule)
    if isinstance(image, str | Path | Page | Held):
        path = Path(image) if isinstance(image, str) else image
        stored = open_stored_bands(path, rule, max_pixels, streamed=max_pixels == MAX_PIXELS)
        return of_stored(stored, rule)
    if not (hasattr(image, "getbands") and hasattr(image, "size")):
        raise DataError(f"an image of {type(image).__name__}: expected a path, a PIL image, an array or a tensor")
    check_size("image", image.height, image.width, max_pixels)
    return of_stored(of_picture(image, "image", rule), rule)


def channels_first(image: Tensor, rule: PixelRule, last: bool) -> Tensor:
    """An image (H, W, bands) or (bands, H, W) as (bands, H, W).

    Where both readings are possible arrays have their bands ``last`` and tensors first; the other is tried on images
    of more than 4 rows and columns. With ``rule.bands`` it is not: any number of bands would fit.

    Raises:
        DataError: neither of the two.
    """
    if image.ndim != 3:
        return image
    usual, other = (-1, 0) if last else (0, -1)
    if rule.bands is not None or image.shape[usual] in (1, 3, 4):
        return image.movedim(usual, 0)
    turned = image.movedim(other, 0)
    if len(turned) in (1, 3, 4) and min(turned.shape[1:]) > 4:
        return turned
    raise DataError(
        f"image of shape {tuple(image.shape)}: expected (H, W), or (H, W, C) or (C, H, W) with 1, 3 or 4 channels C"
    )


def as_read(sample: Sample) -> Picture:
    """A sample of a data set, whose pixels are as the model takes them."""
    height, width = sample.image.shape[-2:]
    return Picture(sample.name, height, width, lambda y0, x0, y1, x1: sample.image[:, y0:y1, x0:x1])


def of_stored(stored: Stored, rule: PixelRule) -> Picture:
    """A file by a rule.

    Raises:
        DataError: naming it, if it has not the bands that the rule asks for.
    """
    chosen = chosen_bands(stored, rule)

    def read(*window: int) -> Tensor:
        return read_window(stored, rule, chosen, (window[0], window[1], window[2], window[3]))

    def inside(*window: int) -> Tensor:
        return torch.from_numpy(inside_window(stored, rule, chosen, (window[0], window[1], window[2], window[3])))

    known = knows_inside(stored, rule)
    return Picture(stored.name, stored.height, stored.width, read, inside if known else None, stored.orientation)


def read_pixels(path: Path, rule: PixelRule = PLAIN, max_pixels: int = MAX_PIXELS) -> tuple[Tensor, Tensor | None]:
    """A whole image file by a rule: pixels (N, H, W), and where there is an image at all (None: everywhere).

    Raises:
        DataError: naming the file.
    """
    picture = of_stored(open_stored_bands(path, rule, max_pixels), rule)
    whole = (0, 0, picture.height, picture.width)
    return picture.read(*whole), None if picture.inside is None else picture.inside(*whole)


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """The colours of an image file, (3, H, W)."""
    return read_pixels(path, PLAIN, max_pixels)[0]


def _from_tensor(image: Tensor, max_pixels: int, rule: PixelRule) -> Picture:
    image = image[None] if image.ndim == 2 else image
    plain = rule.bands is None
    if image.ndim != 3 or (plain and image.shape[0] not in (1, 3, 4)):
        expected = "1, 3 or 4 channels" if plain else f"at least {max(rule.bands or ())} channels"
        raise DataError(f"image of shape {tuple(image.shape)}: expected (H, W), or {expected}")
    height, width = image.shape[1:]
    check_size("image", height, width, max_pixels)
    if not plain or rule.value_range:
        return of_stored(of_array("image", image.cpu().numpy()), rule)
    if image.is_floating_point() and image.numel() and not (image.min() >= 0 and image.max() <= 1):
        raise DataError("image of floats outside [0, 1]: pass uint8, or floats in [0, 1] (not normalised)")
    if not image.is_floating_point() and image.dtype not in (torch.uint8, torch.uint16):
        raise DataError(f"image of {image.dtype}: pass uint8, uint16, or floats in [0, 1]")

    def read(y0: int, x0: int, y1: int, x1: int) -> Tensor:
        part = image[:, y0:y1, x0:x1]
        if part.is_floating_point():
            part = (part * 255).round().to(torch.uint8)
        if len(part) == 4:  # laid over black, as transparent files are
            white = 65535 if part.dtype == torch.uint16 else 255
            over = (part[:3].to(torch.int64) * part[3].to(torch.int64) + white // 2) // white
            part = over.to(part.dtype)
        return part.expand(3, -1, -1)

    return Picture("image", height, width, read)


class MaskWriter:
    """Writes a PNG by bands of rows; the file appears whole or not at all (Pillow cannot stream).

    Args:
        path: the file; its folder is made.
        height: rows.
        width: columns.
        wide: 16 bits per pixel, not 8.
        kind: the mark it bears, see :mod:`segproto.files`.
        palette: colours to show the numbers in, at most 256, RGB.
        rgb: rows are colours (R, W, 3) and not numbers.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        wide: bool = False,
        kind: str = "mask",
        *,
        palette: Sequence[tuple[int, int, int]] | None = None,
        rgb: bool = False,
    ) -> None:
        self._path, self._wide, self._kind, self._rgb = path, wide, kind, rgb
        self._palette = b"" if palette is None else bytes(byte for colour in palette for byte in colour)
        self._missing, self._width = height, width
        self._zlib = zlib.compressobj(4)

    def write(self, rows: Tensor) -> None:
        """Appends rows (R, W) of numbers, or (R, W, 3) of colours.

        Raises:
            ValueError: for another width, or more rows than the image has.
        """
        count = rows.shape[0]
        if rows.shape[1] != self._width or count > self._missing:
            raise ValueError(f"rows {tuple(rows.shape)} do not fit: {self._missing} x {self._width} missing")
        pixels = np.ascontiguousarray(rows.cpu().numpy(), ">u2" if self._wide else np.uint8).view(np.uint8)
        pixels = pixels.reshape(count, -1)
        filtered = np.zeros((count, pixels.shape[1] + 1), np.uint8)  # each PNG row starts with its filter, 0 = none
        filtered[:, 1:] = pixels
        self._missing -= count
        if data := self._zlib.compress(filtered.tobytes()):
            self._file.write(png_chunk(b"IDAT", data))

    def __enter__(self) -> MaskWriter:
        self._fresh = fresh(self._path, self._kind)
        self._file = self._fresh.__enter__()
        colour_type = 2 if self._rgb else 3 if self._palette else 0
        header = struct.pack(">IIBBBBB", self._width, self._missing, 16 if self._wide else 8, colour_type, 0, 0, 0)
        self._file.write(stamped(b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header), self._kind))
        if self._palette:
            self._file.write(png_chunk(b"PLTE", self._palette))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._finish()
            except BaseException as failure:
                self._fresh.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._fresh.__exit__(kind, error, trace)

    def _finish(self) -> None:
        if self._missing:
            raise ValueError(f"{self._path}: {self._missing} rows were not written")
        self._file.write(png_chunk(b"IDAT", self._zlib.flush()) + png_chunk(b"IEND", b""))
