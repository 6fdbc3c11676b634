"""How the numbers in image files become the pixels that a model sees: which bands, what is black and what is white.

Pixels inside the house are uint8, uint16 (0..65535 = black to white), or float32 on the scale of 8 bits (0..255, not
rounded); :func:`levels` brings all three to that scale. An image of 3 bands of 8 bits stays as its file has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segproto.errors import DataError

Range = tuple[float, float]
RGB = (0, 1, 2)
FULL = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}


@dataclass(frozen=True)
class PixelRule:
    """How pixels are read. Part of every model, so that what it predicts is read as what it was trained on.

    Attributes:
        bands: numbers of the file's bands, from 1, in the order the model takes them; None = colours as files have
            them: gray is repeated three times, palettes are looked up, what is transparent in a PNG lies over black.
        names: of these bands, for people; empty where they have none.
        value_range: what is black and what is white, one pair for all bands or one per band; values outside are
            clipped. Empty = the range of the file's number format.
        nodata: value of pixels that hold no image (all bands must have it): a number, ``auto`` = what the file says, or
            ``none``.
        alpha: what an alpha band of a TIFF that is none of ``bands`` means: where it is 0 there is no image (``void``),
            or nothing (``ignore``). None: not decided, and such a file is refused.
        page: of files of several pages, from 1; ``all``: each page is an image of its own; None: they are refused.
        show: which of the model's bands, from 0, stand for red, green and blue in pictures.
        stored: kind of the training images' pixels, ``uint16`` or ``float32``; empty = 8 bits.
    """

    bands: tuple[int, ...] | None = None
    names: tuple[str, ...] = ()
    value_range: tuple[Range, ...] = ()
    nodata: float | Literal["auto", "none"] = "auto"
    alpha: Literal["void", "ignore"] | None = None
    page: int | Literal["all"] | None = None
    show: tuple[int, int, int] = RGB
    stored: str = ""

    @property
    def count(self) -> int:
        """Bands that the model sees."""
        return 3 if self.bands is None else len(self.bands)

    @property
    def words(self) -> str:
        """How pictures show these pixels, in a few words; empty for plain colours."""
        if self.bands is None and not self.value_range:
            return ""
        shown = [self.name(band) for band in self.show]
        colours = f"band {shown[0]} in gray" if len(set(shown)) == 1 else f"{', '.join(shown)} as red, green, blue"
        ranges = [self.value_range[band if len(self.value_range) > 1 else 0] for band in self.show if self.value_range]
        stretch = ", ".join(f"{low:g} to {high:g}" for low, high in dict.fromkeys(ranges))
        return f"{colours}; black to white is {stretch or 'the full range of the number format'}"

    def name(self, band: int) -> str:
        """The name of one of the model's bands, from 0."""
        if self.names:
            return self.names[band]
        return ("red", "green", "blue")[band] if self.bands is None else str(self.bands[band])

    def to_json(self) -> dict[str, Any]:
        """Only what differs from plain colours."""
        plain = PixelRule()
        return {key: value for key, value in vars(self).items() if value != getattr(plain, key)}

    def scaled(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Stored values (N, H, W) of the chosen bands as pixels.

        Raises:
            DataError: a number format without a range of its own, and none is given; or 8 bits for a wider range.
        """
        name = raw.dtype.name
        if not self.value_range:
            if name in FULL:
                return raw
            hint = "set data.value_range=[LOW, HIGH], or data.value_range=percentiles to have it measured"
            raise DataError(f"values of kind {name} have no fixed range: {hint}")
        ranges = self.value_range if len(self.value_range) > 1 else self.value_range * len(raw)
        if name == "uint8":
            if all(r == FULL[name] for r in ranges):
                return raw
            if min(high for _, high in ranges) > 255:
                given = ", ".join(f"{low:g}..{high:g}" for low, high in dict.fromkeys(ranges))
                raise DataError(f"holds 8 bits, but data.value_range is {given}: one of the two is for other files")
        wide = raw.dtype.kind in "iu" and raw.dtype.itemsize <= 2
        out = np.empty(raw.shape, np.uint16 if wide else np.float32)
        for band, (low, high) in enumerate(ranges):
            if wide:
                info = np.iinfo(raw.dtype)
                table = stretched(np.arange(info.min, info.max + 1), low, high, 65535).round().astype(np.uint16)
                out[band] = table[raw[band].astype(np.int64) - info.min]
            else:
                out[band] = np.nan_to_num(stretched(raw[band], low, high, 255), nan=0.0)
        return out


PLAIN = PixelRule()


def stretched(values: NDArray[Any], low: float, high: float, white: float) -> NDArray[np.float64]:
    """Values from ``low`` to ``high`` as 0 to ``white``, clipped."""
    out: NDArray[np.float64] = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * white
    return out


def levels(image: Tensor) -> Tensor:
    """Pixels of any kind (..., H, W) as floats on the scale of 8 bits, 0..255."""
    return image.float() / 257 if image.dtype == torch.uint16 else image.float()


def like(values: Tensor, image: Tensor) -> Tensor:
    """Floats on the scale of 8 bits as pixels of the kind of ``image``, clipped."""
    if image.is_floating_point():
        return values.clamp(0, 255)
    return (values * 257).round().clamp(0, 65535).to(torch.uint16) if image.dtype == torch.uint16 else to_bytes(values)


def to_bytes(values: Tensor) -> Tensor:
    """Floats on the scale of 8 bits as uint8, rounded and clipped."""
    return values.round().clamp(0, 255).to(torch.uint8)


def to_colours(image: Tensor, show: tuple[int, int, int] = RGB) -> Tensor:
    """Pixels (N, H, W) as a picture uint8 (3, H, W) for people (and for what compares colours, as a CRF)."""
    if len(image) != 3 or show != RGB:
        image = torch.stack([image[min(band, len(image) - 1)] for band in show])  # torch 2.6 takes no list for 16 bits
    return image if image.dtype == torch.uint8 else to_bytes(levels(image))
