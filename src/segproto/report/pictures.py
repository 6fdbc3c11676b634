"""Pictures inside a page: data URIs, class colours with transparency, outlines."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from segproto.data.picture import to_pil
from segproto.model.overlays import heat_colours
from segproto.prototypes.labels import IGNORE_INDEX, borders

Kind = Literal["jpeg", "png"]
SHOWN = 720  # longest side of an embedded picture in pixels


def data_uri(picture: Tensor, kind: Kind = "jpeg", side: int = SHOWN) -> str:
    """A picture as a data URI, made smaller where it is larger than ``side``.

    Args:
        picture: uint8 (3 or 4, h, w).
        kind: JPEG for photos; PNG keeps flat colours, transparency and hard edges.
        side: longest side in pixels.
    """
    return image_uri(to_pil(picture), kind, side)


def image_uri(image: Image.Image, kind: Kind = "jpeg", side: int = SHOWN) -> str:
    """The same for a PIL image."""
    return f"data:image/{kind};base64,{base64.b64encode(encoded(image, kind, side)).decode()}"


def encoded(image: Image.Image, kind: Kind = "jpeg", side: int = SHOWN, *, small: bool = True) -> bytes:
    """The file of a picture, made smaller where it is larger than ``side``; ``small``: time is spent on its size."""
    factor = side / max(image.size)
    if factor < 1:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.NEAREST if kind == "png" else Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if kind == "jpeg":
        image.convert("RGB").save(buffer, "JPEG", quality=88)
    else:
        image.save(buffer, "PNG", **({"optimize": True} if small else {"compress_level": 1}))
    return buffer.getvalue()


def paint(mask: Tensor, colours: Sequence[tuple[int, int, int]]) -> Tensor:
    """A mask (h, w) in class colours, void transparent: uint8 (4, h, w)."""
    table = torch.zeros(max(256, len(colours)), 4, dtype=torch.uint8)
    for index, colour in enumerate(colours):
        table[index] = torch.tensor([*colour, 255], dtype=torch.uint8)
    table[IGNORE_INDEX, 3] = 0
    return table[mask.long().cpu()].permute(2, 0, 1)


def outline(mask: Tensor) -> Tensor:
    """The borders between the regions of a mask (h, w): white with a dark rim, else transparent; uint8 (4, h, w)."""
    edge = borders(mask)
    out = torch.zeros(4, *mask.shape, dtype=torch.uint8)
    out[:3, edge] = 255
    out[3, edge] = 230
    return out


def heat(values: Tensor) -> Tensor:
    """Values (h, w) of 0..1, clipped, in colours from dark to bright: uint8 (3, h, w)."""
    return heat_colours(values.cpu()).round().to(torch.uint8)
