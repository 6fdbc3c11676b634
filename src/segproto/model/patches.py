"""Patches of images: the box of a grid cell, and its picture with the surroundings."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from segproto.data.images import open_patch
from segproto.data.picture import to_pil
from segproto.model.provenance import PrototypeSource
from segproto.model.segmenter import Segmenter
from segproto.prototypes.labels import IGNORE_INDEX

PICTURE_SIDE = 512  # longest side of a training image that is kept whole, for patches to be cut from
PATCH_CONTEXT = 64  # pixels shown around a patch, so that a person recognises what it is
PATCH_PIXELS = 128  # side of the drawn picture

Box = tuple[int, int, int, int]


def cell_box(model: Segmenter, size: tuple[int, int], cell: list[int], grid: list[int]) -> Box:
    """(y0, x0, y1, x1) of a cell in image pixels, at least one pixel and inside the image.

    See docs/specs/scaleproto.md#cell-boxes.
    """
    (ph, pw), (h, w) = model.encoder.padded_size(*size), grid
    y0, x0 = min(int(cell[0] * ph / h), size[0] - 1), min(int(cell[1] * pw / w), size[1] - 1)
    y1, x1 = int((cell[0] + 1) * ph / h), int((cell[1] + 1) * pw / w)
    return y0, x0, min(max(y1, y0 + 1), size[0]), min(max(x1, x0 + 1), size[1])


def covered_mask(model: Segmenter, mask: Tensor) -> Tensor:
    """A mask (H, W) as int64, void up to the area that the grid covers."""
    height, width = mask.shape
    padded_height, padded_width = model.encoder.padded_size(height, width)
    return F.pad(mask.long(), (0, padded_width - width, 0, padded_height - height), value=IGNORE_INDEX)


def draw_patch(image: Tensor, box: Box) -> bytes:
    """PNG of a patch with its surroundings, the cell outlined; uint8 image (3, H, W).

    It is packed as masks are: three times as fast as by Pillow's own level, for a twentieth more.
    """
    buffer = io.BytesIO()
    patch_picture(image, box).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def patch_picture(image: Tensor, box: Box, pixels: int = PATCH_PIXELS) -> Image.Image:
    """The same as a picture of ``pixels`` by ``pixels``."""
    height, width = image.shape[-2:]
    side = min(max(PATCH_CONTEXT, 2 * (box[2] - box[0]), 2 * (box[3] - box[1])), height, width)
    top = min(max((box[0] + box[2] - side) // 2, 0), height - side)
    left = min(max((box[1] + box[3] - side) // 2, 0), width - side)
    crop = to_pil(image[:, top : top + side, left : left + side])
    picture = crop.resize((pixels, pixels), Image.Resampling.BICUBIC)
    scale = pixels / side
    frame = [(box[1] - left) * scale - 2, (box[0] - top) * scale - 2]
    frame += [(box[3] - left) * scale + 1, (box[2] - top) * scale + 1]
    draw = ImageDraw.Draw(picture)
    draw.rectangle([frame[0] - 1, frame[1] - 1, frame[2] + 1, frame[3] + 1], outline=(0, 0, 0))
    draw.rectangle(frame, outline=(255, 255, 255))
    return picture


def keep_picture(image: Tensor) -> bytes:
    """A training image as a small JPEG, for models with so many patches that one picture each would be too many.

    Args:
        image: uint8 (3, H, W).
    """
    picture = to_pil(image)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def stored_patch(model: Segmenter, source: PrototypeSource | None) -> Image.Image | None:
    """The picture of a prototype's training patch, drawn when it was found or cut from the kept picture of its image.

    Raises:
        DataError: the artefact's picture is broken.
    """
    if source is None or source.patch is None or source.patch not in model.patches:
        return None
    picture = open_patch(model.patches[source.patch], source.patch)
    if source.size is None:
        return picture
    whole = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    down, across = whole.shape[1] / source.size[0], whole.shape[2] / source.size[1]
    y0, x0, y1, x1 = source.box
    top, left = int(y0 * down), int(x0 * across)
    return patch_picture(whole, (top, left, max(top + 1, round(y1 * down)), max(left + 1, round(x1 * across))))
