"""Image files of every kind as pixels by a :class:`~segproto.data.pixels.PixelRule`, in windows where they can."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from segproto.data.archives import Member
from segproto.data.crops import Crop
from segproto.data.images import MAX_PIXELS, exif_orientation, open_picture, to_rgb
from segproto.data.matlab import read_mat
from segproto.data.pixels import PLAIN, PixelRule
from segproto.data.tiff_bands import TiffBands, is_tiff
from segproto.data.tiff_pages import Page
from segproto.errors import DataError

Window = tuple[int, int, int, int]
STREAMED = 1 << 40  # pixels of a file that is read in windows, where no other limit is asked for
LARGE = 1 << 24  # pixels from which JPEG in a TIFF is read in parts, by another decoder than that of small ones
COLOURS = (0, 1, 2, 3, 5, 6, 8)  # photometric: white is 0, gray, RGB, palette, CMYK, YCbCr, Lab


class TooManyPixels(DataError):
    """An image is larger than was allowed.

    Attributes:
        size: which one and how large, in words.
    """

    def __init__(self, size: str, limit: int, hint: str) -> None:
        super().__init__(f"{size} are more than the limit of {limit}{hint}")
        self.size = size


@dataclass(frozen=True)
class Stored:
    """An image file as it is stored.

    Attributes:
        name: for messages.
        height: pixels.
        width: pixels.
        count: bands.
        dtype: number format.
        read: window (y0, x0, y1, x1) to the stored values (count, h, w).
        inside: window to where the file's own mask says that there is an image; None without a mask.
        alpha: band (from 0) that is called alpha, and is undecided unless the rule says what it is; None without one.
        nodata: value of pixels without an image, as the file says; None if it does not.
        orientation: EXIF's (or TIFF's), 1..8, not applied.
    """

    name: str
    height: int
    width: int
    count: int
    dtype: np.dtype[Any]
    read: Callable[[int, int, int, int], NDArray[Any]]
    inside: Callable[[int, int, int, int], NDArray[np.bool_]] | None = None
    alpha: int | None = None
    nodata: float | None = None
    orientation: int = 1


def open_stored_bands(
    path: Path | Crop | Page | Member,
    rule: PixelRule = PLAIN,
    max_pixels: int = MAX_PIXELS,
    *,
    streamed: bool = False,
) -> Stored:
    """Opens a file without decoding more than its format asks for.

    Args:
        path: an image file of the known formats, a MATLAB file, or a crop of one.
        rule: decides the page of a stack, and whether what is transparent is a band of its own.
        max_pixels: larger ones are refused.
        streamed: but not those that are read in windows.

    Raises:
        DataError: naming the file.
    """
    if isinstance(path, Crop):
        return of_array(str(path), path.image().transpose(2, 0, 1))
    if isinstance(path, Page):
        return of_tiff(TiffBands(path.file, path.number), str(path))
    if path.suffix == ".mat":
        return of_array(str(path), read_mat(path, "img")[..., :3].transpose(2, 0, 1))
    if is_tiff(path):
        tiff = TiffBands(path, 1 if rule.page == "all" else rule.page)
        if rule.page == "all" and tiff.pages > 1:
            raise DataError(f"{path}: holds {tiff.pages} pages; say which one is meant: --page K (in Python: page=K)")
        if not for_pillow(tiff, rule):
            check_size(str(path), tiff.height, tiff.width, STREAMED if streamed else max_pixels)
            return of_tiff(tiff, str(path))
        if reason := unread(tiff):
            raise DataError(f"{path}: {reason}")
    return of_pillow(path, rule, max_pixels)


def of_tiff(tiff: TiffBands, name: str) -> Stored:
    """A picture of a TIFF that is read in windows."""
    inside = tiff.inside if tiff.has_mask else None
    size = (tiff.height, tiff.width, tiff.count, tiff.dtype)
    return Stored(name, *size, tiff.read, inside, tiff.alpha, tiff.nodata, tiff.orientation)


def unread(tiff: TiffBands) -> str | None:
    """Why neither decoder reads a TIFF as it is; None if Pillow does."""
    simple = tiff.dtype in (np.uint8, np.bool_) and tiff.alpha is None and tiff.pages == 1 and not tiff.has_mask
    return None if simple and tiff.photometric in COLOURS else tiff.missing_codec()


def for_pillow(tiff: TiffBands, rule: PixelRule) -> bool:
    """Whether Pillow reads a TIFF: palettes and colours to be converted, and codecs that are not installed."""
    if tiff.missing_codec() is not None:
        return True
    if tiff.dtype not in (np.uint8, np.bool_) or tiff.pages > 1 or rule.bands is not None:
        return False
    jpeg = tiff.compression == 7 and tiff.height * tiff.width < LARGE
    return tiff.photometric not in (1, 2, 6) or jpeg or tiff.dtype == np.bool_


def of_array(name: str, values: NDArray[Any]) -> Stored:
    """An array (count, H, W) that is there already."""

    def read(y0: int, x0: int, y1: int, x1: int) -> NDArray[Any]:
        return values[:, y0:y1, x0:x1]

    count, height, width = values.shape
    return Stored(name, height, width, count, values.dtype, read)


def of_pillow(path: Path | Member, rule: PixelRule, max_pixels: int) -> Stored:
    """A picture that Pillow decodes, as a whole; converted window by window."""
    with open_picture(path, sys.maxsize) as picture:
        check_size(str(path), picture.height, picture.width, max_pixels)
        wide = is_wide(picture)  # before anything is decoded
        turned = exif_orientation(picture)
        picture.load()
    if wide:
        values = ((np.asarray(picture).astype(np.uint16) << 8) | lower_bytes(path)).astype(np.uint16).transpose(2, 0, 1)
        every = rule.bands is not None and max(rule.bands) > 3
        return replace(of_array(str(path), values if every else over_black(values)), orientation=turned)
    return of_picture(picture, str(path), rule, turned)


def of_picture(picture: Image.Image, name: str, rule: PixelRule, orientation: int = 1) -> Stored:
    """A decoded Pillow picture."""
    number = picture.mode in ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
    raw = not number and rule.bands is not None and max(rule.bands) > 3
    gray = picture.mode == "L" and "transparency" not in picture.info
    count = len(picture.getbands()) if raw else 1 if number or gray else 3

    def read(y0: int, x0: int, y1: int, x1: int) -> NDArray[Any]:
        part = picture.crop((x0, y0, x1, y1))
        if number:
            return numbers(part)[None]
        if raw or gray:
            values = np.asarray(part)
            return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
        return to_rgb(part).transpose(2, 0, 1)

    if number:
        dtype = numbers(picture.crop((0, 0, 1, 1))).dtype if picture.mode != "I" else numbers(picture).dtype
    else:
        dtype = np.dtype(np.uint8)
    return Stored(name, picture.height, picture.width, count, dtype, read, orientation=orientation)


def numbers(picture: Image.Image) -> NDArray[Any]:
    """The values (H, W) of a picture of numbers: uint16 where it says so or has no others, else as they are."""
    values = np.asarray(picture)
    if picture.mode.startswith("I;16"):
        return values.astype(np.uint16)
    if picture.mode == "I" and values.size and values.min() >= 0 and values.max() <= 65535:
        return values.astype(np.uint16)
    return values


def is_wide(picture: Image.Image) -> bool:
    """Whether a PNG has colours of 16 bits, of which Pillow gives the upper bytes alone."""
    tiles = getattr(picture, "tile", None) or [(None, None, None, None)]
    return picture.format == "PNG" and str(tiles[0][3]) in ("RGB;16B", "RGBA;16B")


def lower_bytes(path: Path | Member) -> NDArray[np.uint8]:
    """The other bytes of such colours (H, W, bands): given by Pillow if told that the lower ones come last."""
    with open_picture(path, sys.maxsize) as picture:
        tiles = picture.tile  # type: ignore[attr-defined]
        picture.tile = [tile._replace(args=tile.args.replace(";16B", ";16L")) for tile in tiles]  # type: ignore[attr-defined]
        return np.asarray(picture)


def over_black(wide: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Colours of 16 bits (3 or 4, H, W), the fourth band how much they cover black."""
    if len(wide) == 3:
        return wide
    alpha = wide[3].astype(np.uint32)
    return np.asarray((wide[:3].astype(np.uint32) * alpha + 32767) // 65535, np.uint16)


def check_size(name: str, height: int, width: int, max_pixels: int) -> None:
    """Refuses an image with more pixels than allowed.

    Raises:
        TooManyPixels: naming it, and the option that allows for more.
    """
    if height * width > max_pixels:
        hint = f"; if that is meant, pass --max-pixels {height * width}"
        raise TooManyPixels(f"{name}: {height} x {width} = {height * width} pixels", max_pixels, hint)


def chosen_bands(stored: Stored, rule: PixelRule) -> tuple[int, ...]:
    """Which of the file's bands, from 0, are the model's.

    Raises:
        DataError: naming the file: the rule names a band that is not there, or leaves open what the bands are.
    """
    count, alpha = stored.count, stored.alpha
    if rule.bands is not None:
        if max(rule.bands) > count:
            what = f"has {count} bands" if count > 1 else "has one band"
            raise DataError(
                f"{stored.name}: {what}, data.bands={list(rule.bands)} names others; where they stand elsewhere in "
                "this file, predict --bands says so"
            )
        return tuple(band - 1 for band in rule.bands)
    plain = count - (alpha is not None)
    if alpha is not None and rule.alpha is None:
        every = list(range(1, count + 1))
        raise DataError(
            f"{stored.name}: its band {alpha + 1} of {count} is tagged as alpha, as near-infrared often is: "
            f"data.bands={every} reads all as bands, data.alpha=void takes pixels where it is 0 for void, "
            "data.alpha=ignore leaves it out"
        )
    if plain not in (1, 3):
        raise DataError(
            f"{stored.name}: has {count} bands; say which the model is to see: data.bands={list(range(1, count + 1))} "
            "for all, in this order, or data.bands={red: 3, green: 2, blue: 1} for some, with names"
        )
    return (0, 0, 0) if plain == 1 else (0, 1, 2)


def read_window(stored: Stored, rule: PixelRule, chosen: tuple[int, ...], window: Window) -> Tensor:
    """Pixels (N, h, w) of a window by the rule.

    Raises:
        DataError: naming the file.
    """
    raw = stored.read(*window)
    try:
        pixels = rule.scaled(raw if chosen == tuple(range(len(raw))) else raw[list(chosen)])
    except DataError as error:
        raise DataError(f"{stored.name}: {error}") from None
    return torch.from_numpy(np.ascontiguousarray(pixels))


def knows_inside(stored: Stored, rule: PixelRule) -> bool:
    """Whether anything says which pixels hold an image."""
    value = stored.nodata if rule.nodata == "auto" else rule.nodata
    masked = stored.inside is not None or (stored.alpha is not None and rule.alpha == "void")
    return masked or isinstance(value, float | int) or stored.dtype.kind == "f"


def inside_window(stored: Stored, rule: PixelRule, chosen: tuple[int, ...], window: Window) -> NDArray[np.bool_]:
    """Where a window (h, w) holds an image: by nodata, the file's mask, its alpha band, and numbers that are none."""
    raw = stored.read(*window)
    seen = raw[sorted(set(chosen))]
    inside = np.ones(raw.shape[1:], np.bool_)
    value = stored.nodata if rule.nodata == "auto" else rule.nodata
    if isinstance(value, float | int):
        inside &= (seen != value).any(0)
    if stored.dtype.kind == "f":
        inside &= np.isfinite(seen).all(0)
    if stored.inside is not None and rule.nodata != "none":
        inside &= stored.inside(*window)
    if stored.alpha is not None and rule.alpha == "void" and stored.alpha not in chosen:
        inside &= raw[stored.alpha] > 0
    return inside
