"""Pictures of any kind and size, read window by window as uint8 RGB, and masks written row by row."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from segproto.data.images import MAX_PIXELS, open_picture, to_rgb
from segproto.errors import DataError
from segproto.files import fresh, png_chunk, stamped

if TYPE_CHECKING:
    from PIL.Image import Image

ImageLike: TypeAlias = "str | Path | Image | np.ndarray[Any, Any] | Tensor"


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
        read: (y0, x0, y1, x1) in pixels to uint8 (3, y1 - y0, x1 - x0), RGB.
    """

    name: str
    height: int
    width: int
    read: Callable[[int, int, int, int], Tensor]


def look_at(image: ImageLike, max_pixels: int = MAX_PIXELS) -> Picture:
    """Opens an image without converting it as a whole; colours by the rules of ``segproto.data.images.to_rgb``.

    Args:
        image: a path, a PIL image, an array (H, W) or (H, W, 1|3|4), or a tensor (H, W) or (1|3|4, H, W). Arrays and
            tensors hold uint8, uint16 (full range), or floats in [0, 1].
        max_pixels: larger images are refused.

    Raises:
        DataError: naming the file, if it cannot be read or is too large.
    """
    if isinstance(image, Tensor):
        return _from_tensor(image, max_pixels)
    if isinstance(image, np.ndarray):
        array = torch.from_numpy(np.ascontiguousarray(image))
        return _from_tensor(array.movedim(-1, 0) if array.ndim == 3 else array, max_pixels)
    if isinstance(image, str | Path):
        path = Path(image)
        with open_picture(path, sys.maxsize) as picture:
            _check_size(str(path), picture.height, picture.width, max_pixels)
            picture.load()
        return _from_pil(picture, str(path))
    _check_size("image", image.height, image.width, max_pixels)
    return _from_pil(image, "image")


def _check_size(name: str, height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise DataError(
            f"{name}: {height} x {width} = {height * width} pixels are more than the limit of {max_pixels}; "
            f"if that is meant, pass --max-pixels {height * width}"
        )


def _from_pil(picture: Image, name: str) -> Picture:
    def read(y0: int, x0: int, y1: int, x1: int) -> Tensor:
        try:
            return torch.from_numpy(to_rgb(picture.crop((x0, y0, x1, y1)))).permute(2, 0, 1)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None

    return Picture(name, picture.height, picture.width, read)


def _from_tensor(image: Tensor, max_pixels: int) -> Picture:
    image = image[None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise DataError(f"image of shape {tuple(image.shape)}: expected (H, W), or 1, 3 or 4 channels")
    height, width = image.shape[1:]
    _check_size("image", height, width, max_pixels)
    if image.is_floating_point() and image.numel() and not (image.min() >= 0 and image.max() <= 1):
        raise DataError("image of floats outside [0, 1]: pass uint8, or floats in [0, 1] (not normalised)")
    if not image.is_floating_point() and image.dtype not in (torch.uint8, torch.uint16):
        raise DataError(f"image of {image.dtype}: pass uint8, uint16, or floats in [0, 1]")

    def read(y0: int, x0: int, y1: int, x1: int) -> Tensor:
        part = image[:, y0:y1, x0:x1]
        if part.dtype == torch.uint16:
            part = ((part.to(torch.int32) + 128) // 257).to(torch.uint8)
        elif part.is_floating_point():
            part = (part * 255).round().to(torch.uint8)
        if len(part) == 4:  # laid over black, as transparent files are
            part = ((part[:3].to(torch.int32) * part[3] + 127) // 255).to(torch.uint8)
        return part.expand(3, -1, -1)

    return Picture("image", height, width, read)


class MaskWriter:
    """Writes a gray PNG by bands of rows; the file appears whole or not at all (Pillow cannot stream).

    Args:
        path: the file; its folder is made.
        height: rows.
        width: columns.
        wide: 16 bits per pixel, not 8.
        kind: the mark it bears, see :mod:`segproto.files`.
    """

    def __init__(self, path: Path, height: int, width: int, wide: bool = False, kind: str = "mask") -> None:
        self._path, self._wide, self._kind = path, wide, kind
        self._missing, self._width = height, width
        self._zlib = zlib.compressobj(4)

    def write(self, rows: Tensor) -> None:
        """Appends rows (R, W) of classes.

        Raises:
            ValueError: for another width, or more rows than the image has.
        """
        count = rows.shape[0]
        if rows.shape[1] != self._width or count > self._missing:
            raise ValueError(f"rows {tuple(rows.shape)} do not fit: {self._missing} x {self._width} missing")
        pixels = np.ascontiguousarray(rows.cpu().numpy(), ">u2" if self._wide else np.uint8).view(np.uint8)
        filtered = np.zeros((count, pixels.shape[1] + 1), np.uint8)  # each PNG row starts with its filter, 0 = none
        filtered[:, 1:] = pixels
        self._missing -= count
        if data := self._zlib.compress(filtered.tobytes()):
            self._file.write(png_chunk(b"IDAT", data))

    def __enter__(self) -> MaskWriter:
        self._fresh = fresh(self._path, self._kind)
        self._file = self._fresh.__enter__()
        header = struct.pack(">IIBBBBB", self._width, self._missing, 16 if self._wide else 8, 0, 0, 0, 0)
        self._file.write(stamped(b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header), self._kind))
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
