"""Reading image files and mask files of every usual kind, or saying which file is wrong and how.

EXIF orientation is ignored, for images and masks alike: pixels are taken in stored order, so a pair always fits.
"""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from segproto.data.archives import Member
from segproto.data.crops import Crop
from segproto.data.drawn import Drawn
from segproto.data.matlab import read_mat
from segproto.data.tiff_pages import Page
from segproto.errors import DataError
from segproto.files.reading import open_file

MAX_PIXELS = 2**28
MAX_PATCH = 2**24
MOST_PAGES = 4096
SUBFILE = 254  # TIFF's NewSubfileType: 1 = a smaller copy, 4 = a mask
NUMBERED = ("1", "L", "P", "F", "RGB", "RGBA", "RGBX", "LA", "PA")  # modes of masks; F has its own message later
# Formats with a signature whose decoders are part of Pillow. Others may start programs (EPS: Ghostscript) or take any
# bytes for a picture, whatever the file is called.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError, AttributeError, RuntimeError,
           OverflowError, ZeroDivisionError, struct.error, zlib.error)  # fmt: skip
_limit_lock = threading.Lock()


class ColouredMask(DataError):
    """A mask holds colours where numbers were expected."""


@contextmanager
def open_picture(path: Path | Member, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Opens a picture file of the ``FORMATS``, with one page and at most ``max_pixels`` pixels.

    Raises:
        DataError: naming the file, if it is missing, no ordinary file, broken, of another format, too large or has
            several pages; also when decoding fails inside the ``with`` block.
    """
    file = path.open_binary() if isinstance(path, Member) else open_file(path, what="picture file")
    with file, open_stored(file, str(path), max_pixels) as picture:
        yield picture


@contextmanager
def open_stored(file: IO[bytes], name: str, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The same for bytes that come from elsewhere than a file of their own; ``name`` is for messages."""
    formats = [one for one in FORMATS if one in known_formats()]
    with _limit_lock:  # Pillow's own limit is global and lower than ours; the size is checked right below
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            picture = Image.open(file, formats=formats)
        except UnidentifiedImageError:
            if not file.seek(0, io.SEEK_END):
                raise DataError(f"{name}: is empty (0 bytes)") from None
            raise DataError(f"{name}: is no picture, or broken at its start; known are {', '.join(formats)}") from None
        except _BROKEN as error:
            raise DataError(f"{name}: cannot be read as a picture ({_reason(error)})") from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with picture:
        width, height = picture.size
        if width * height > max_pixels:
            raise DataError(f"{name}: {width}x{height} pixels are more than the limit of {max_pixels}")
        try:
            refuse_several(picture, name)
            yield picture
        except DataError:
            raise
        except _BROKEN as error:
            raise DataError(f"{name}: broken picture file ({_reason(error)})") from error


def refuse_several(picture: Image.Image, name: str) -> None:
    """Refuses a stack of pages and an animation, of which the first picture would be taken without a word.

    Cameras' multi-picture JPEG (``MPO``) is none: what follows the photo are its previews.
    """
    count = getattr(picture, "n_frames", 1)
    if count > 1 and picture.format == "TIFF":
        if (count := whole_pages(picture)) == 1:  # beside smaller copies of it and its mask
            return
        raise DataError(
            f"{name}: holds {count} pages, expected one; data.pages=all takes each for an image, data.pages=K the K-th"
        )
    if count > 1 and picture.format != "MPO":
        raise DataError(f"{name}: is an animation of {count} pictures, expected one: save the one that is meant")


def open_patch(png: bytes, name: str) -> Image.Image:
    """The picture of a prototype's patch, decoded.

    Raises:
        DataError: naming it, if it is broken or larger than a patch can be.
    """
    with open_stored(io.BytesIO(png), name, MAX_PATCH) as picture:
        picture.load()
    return picture


@lru_cache(maxsize=1)
def known_formats() -> frozenset[str]:
    """The formats that this Pillow was built with."""
    Image.init()
    return frozenset(Image.OPEN)


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def whole_pages(picture: Image.Image) -> int:
    """Pages of a TIFF that are neither smaller copies of another one nor its mask; it is left at the first."""
    count = 0
    for page in range(min(picture.n_frames, MOST_PAGES)):  # type: ignore[attr-defined]
        picture.seek(page)
        count += not int(picture.tag_v2.get(SUBFILE, 0)) & 5  # type: ignore[attr-defined]
    picture.seek(0)
    return max(count, 1)


def exif_orientation(picture: Image.Image) -> int:
    """The EXIF orientation of an open picture, 1..8, which is nowhere applied; 1 = upright, also without one."""
    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


def orientation(path: Path) -> int:
    """The EXIF orientation that a picture file names, see :func:`exif_orientation`."""
    if isinstance(path, Crop) or path.suffix in (".mat", ".tif", ".tiff", Page.suffix):
        return 1
    with open_picture(path) as picture:
        return exif_orientation(picture)


def to_rgb(picture: Image.Image) -> NDArray[np.uint8]:
    """A Pillow picture as uint8 (H, W, 3).

    Gray is repeated three times; palettes are looked up; transparent pixels are laid over black; 16-bit gray is scaled
    by its full range (``round(value / 257)``), never by the values of the one image; CMYK is converted.

    Raises:
        DataError: for float pictures and for integers beyond 16 bits, whose range is unknown.
    """
    if picture.mode in ("I", "I;16", "I;16L", "I;16B", "I;16N"):
        wide = np.asarray(picture).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise DataError(f"values {wide.min()}..{wide.max()} do not fit 16 bits; save it with 8 or 16 bits")
        gray = ((wide + 128) // 257).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if picture.mode == "F":
        raise DataError("float pixels have no fixed range; save it with 8 or 16 bits")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture.convert("RGBA"))
    return np.array(picture.convert("RGB"), dtype=np.uint8)


def read_indices(path: Path) -> NDArray[np.int64]:
    """The stored numbers of a mask (H, W), see :func:`read_stored`."""
    return read_stored(path).astype(np.int64)


def read_stored(path: Path) -> NDArray[np.uint8] | NDArray[np.int64]:
    """The stored numbers of a mask (H, W): gray values, palette **indices** (never colours), 0/1 of bitmaps, 16 bits.

    A three-channel file is accepted if its channels are equal (a gray mask saved as RGB). Bytes stay bytes, which a
    table maps in a tenth of the time.

    Raises:
        DataError: naming the file, if it is coloured or broken.
    """
    if isinstance(path, Crop | Drawn | Page):
        return path.labels()
    if path.suffix == ".mat":
        values = read_mat(path, "gt", "S", "GTcls")
    else:
        with open_picture(path) as picture:
            require_numbers(picture, path)
            step = stretched(picture)
            values = np.asarray(picture)
        if step > 1:
            values = values // step
    if values.ndim == 2 and values.dtype == np.uint8:
        return values
    if values.ndim == 2 and values.dtype.kind in "uib":
        return values.astype(np.int64)
    if values.ndim == 3 and values.dtype == np.uint8:
        rgb = values[..., :3] if values.shape[2] >= 3 else values[..., :1]
        if (rgb == rgb[..., :1]).all():
            return np.ascontiguousarray(rgb[..., 0])
        raise ColouredMask(
            f"{path}: the mask is coloured but the classes have numbers; give their colours in classes.yaml"
            ' (values: "#RRGGBB")'
        )
    raise DataError(f"{path}: a mask of kind {values.dtype} with shape {values.shape} cannot be read; use index PNG")


def require_numbers(picture: Image.Image, path: Path) -> None:
    """Refuses masks whose stored numbers Pillow does not hand out: it would give others, mostly 0, without a word.

    Raises:
        DataError: neither gray, palette nor RGB (CMYK, YCbCr, Lab), or colours of 16 bits, which lose their lower byte.
    """
    if picture.mode not in NUMBERED and not picture.mode.startswith("I"):
        raise DataError(f"{path}: a mask of mode {picture.mode} holds no class numbers; save it as index or gray PNG")
    tiles = getattr(picture, "tile", None)  # of what comes from a file
    arguments = tiles[0][3] if tiles else ""
    stored = arguments if isinstance(arguments, str) else str((arguments or ("",))[0])
    if ";16" in stored and not picture.mode.startswith("I"):
        raise DataError(f"{path}: a mask with colours of 16 bits; save it as index or gray PNG")


def stretched(picture: Image.Image) -> int:
    """The factor by which Pillow stretches gray of 2 or 4 bits to 0..255; 1 for all others. Asked before decoding."""
    tiles = getattr(picture, "tile", None)
    arguments = tiles[0][3] if tiles and picture.mode == "L" else ""
    stored = arguments if isinstance(arguments, str) else str((arguments or ("",))[0])
    return 85 if stored.startswith("L;2") else 17 if stored.startswith("L;4") else 1


def read_objects(path: Path) -> NDArray[np.int64]:
    """Object indices (H, W) of ADE20K's full release: red tenths times 256 plus green; 0 = not annotated.

    Raises:
        DataError: naming the file.
    """
    with open_picture(path) as picture:
        if picture.mode not in ("RGB", "RGBA"):
            raise DataError(f"{path}: a picture of mode {picture.mode}; expected the colours of a *_seg.png")
        values = np.asarray(picture).astype(np.int64)
    objects: NDArray[np.int64] = values[..., 0] // 10 * 256 + values[..., 1]
    return objects


def read_colours(path: Path) -> NDArray[np.int64]:
    """The colours of a mask as ``0xRRGGBB`` (H, W); palettes are looked up, transparency is ignored.

    Raises:
        DataError: naming the file.
    """
    with open_picture(path) as picture:
        if picture.mode not in ("RGB", "RGBA", "P", "L", "LA", "1"):
            raise DataError(f"{path}: a mask of mode {picture.mode} has no 8-bit colours; save it as RGB PNG")
        rgb = np.asarray(picture.convert("RGB")).astype(np.int64)
    keys: NDArray[np.int64] = (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
    return keys
