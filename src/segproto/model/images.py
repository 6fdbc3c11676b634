"""Pictures of any kind and size, read window by window as uint8 RGB, and masks written row by row."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from segproto.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 2**28

ImageLike: TypeAlias = "str | Path | Image | np.ndarray[Any, Any] | Tensor"


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


def open_picture(image: ImageLike, max_pixels: int = MAX_PIXELS) -> Picture:
    """Opens an image without converting it as a whole.

    Args:
        image: a path, a PIL image, an array (H, W) or (H, W, 1|3|4), or a tensor (H, W) or (1|3|4, H, W); arrays and
            tensors hold uint8, or floats in [0, 1]. Gray becomes RGB, an alpha channel is dropped.
        max_pixels: larger images are refused.

    Raises:
        DataError: naming the file, if it cannot be read or is too large.
    """
    if isinstance(image, Tensor):
        return _from_tensor(image, max_pixels)
    if isinstance(image, np.ndarray):
        array = torch.from_numpy(np.ascontiguousarray(image))
        return _from_tensor(array if array.ndim == 2 else array.movedim(-1, 0), max_pixels)
    if isinstance(image, str | Path):
        return _from_file(Path(image), max_pixels)
    _check_size("image", image.height, image.width, max_pixels)
    return _from_pil(image, "image")


def _check_size(name: str, height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise DataError(
            f"{name} has {height} x {width} = {height * width} pixels, more than {max_pixels}; "
            f"if that is meant, pass --max-pixels {height * width}"
        )


def _from_tensor(image: Tensor, max_pixels: int) -> Picture:
    image = image[None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise DataError(f"image of shape {tuple(image.shape)}: expected (H, W), or 1, 3 or 4 channels")
    height, width = image.shape[1:]
    _check_size("image", height, width, max_pixels)
    scale = 1.0
    if image.is_floating_point():
        if image.numel() and not (image.min() >= 0 and image.max() <= 1):
            raise DataError("image of floats outside [0, 1]: pass uint8, or floats in [0, 1] (not normalised)")
        scale = 255.0
    elif image.dtype != torch.uint8:
        raise DataError(f"image of {image.dtype}: pass uint8, or floats in [0, 1]")

    def read(y0: int, x0: int, y1: int, x1: int) -> Tensor:
        part = image[:3, y0:y1, x0:x1]
        part = part if scale == 1 else (part * scale).round().to(torch.uint8)
        return part.expand(3, -1, -1)

    return Picture("image", height, width, read)


def _from_file(path: Path, max_pixels: int) -> Picture:
    from PIL import Image, UnidentifiedImageError

    try:
        with _no_pixel_limit():
            picture = Image.open(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from None
    _check_size(str(path), picture.height, picture.width, max_pixels)
    return _from_pil(picture, str(path))


def _from_pil(picture: Image, name: str) -> Picture:
    if picture.mode.startswith(("I", "F")):
        raise DataError(f"{name}: mode {picture.mode} has no agreed brightness range; convert it to 8 bits a channel")

    def read(y0: int, x0: int, y1: int, x1: int) -> Tensor:
        try:
            with _no_pixel_limit():
                part = picture.crop((x0, y0, x1, y1)).convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{name}: cannot be read ({error})") from None
        return torch.from_numpy(np.array(part)).permute(2, 0, 1)

    return Picture(name, picture.height, picture.width, read)


@contextmanager
def _no_pixel_limit() -> Iterator[None]:
    """Pillow refuses large images on its own terms; ours (``max_pixels``) were checked from the header."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


class MaskWriter:
    """Writes an 8-bit gray PNG by bands of rows; the file appears whole or not at all (Pillow cannot stream).

    Args:
        path: the file; its folder is made.
        height: rows.
        width: columns.
    """

    def __init__(self, path: Path, height: int, width: int) -> None:
        self._path, self._part = path, path.with_name(path.name + ".part")
        self._missing, self._width = height, width
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._part.open("wb")
        self._zlib = zlib.compressobj(4)
        self._file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))

    def write(self, rows: Tensor) -> None:
        """Appends uint8 rows (R, W).

        Raises:
            ValueError: for another width, or more rows than the image has.
        """
        count = rows.shape[0]
        if rows.shape[1] != self._width or count > self._missing:
            raise ValueError(f"rows {tuple(rows.shape)} do not fit: {self._missing} x {self._width} missing")
        filtered = np.zeros((count, self._width + 1), np.uint8)  # each PNG row starts with its filter, 0 = none
        filtered[:, 1:] = rows.cpu().numpy()
        self._missing -= count
        self._chunk(b"IDAT", self._zlib.compress(filtered.tobytes()))

    def __enter__(self) -> MaskWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None and not self._missing:
                self._chunk(b"IDAT", self._zlib.flush())
                self._chunk(b"IEND", b"")
        if kind is not None or self._missing:
            self._part.unlink()
            if kind is None:
                raise ValueError(f"{self._path}: {self._missing} rows were not written")
            return
        self._part.replace(self._path)

    def _chunk(self, kind: bytes, data: bytes) -> None:
        if data or kind == b"IEND":
            crc = zlib.crc32(kind + data)
            self._file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc))
