"""Masks of images of any size, at their own size, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from segproto.data.base import label_dtype
from segproto.data.images import MAX_PIXELS
from segproto.data.picture import ImageLike, Picture, look_at
from segproto.errors import ConfigError
from segproto.model.segmenter import Segmenter
from segproto.model.windows import (
    Maps,
    Scale,
    WindowRow,
    blend,
    evaluating,
    field_logits,
    view_fields,
    window_rows,
)
from segproto.prototypes.labels import IGNORE_INDEX

WHOLE_PIXELS = 1536 * 1536  # larger images go through windows; a Cityscapes frame (2048 x 1024) does not
WINDOW = 768
OVERLAP = 0.25


class Views(TypedDict, total=False):
    """How an image is looked at.

    Attributes:
        window: side of the sliding windows in pixels; None = as in training (``data.window``), else the whole image at
            once where it is not too large, else windows of the size of the training crops.
        overlap: share of a window that its neighbour sees too, 0..0.9.
        scales: factors the image is resized by; **logits** are averaged over them, after upsampling. None: the image
            is seen once, at its own size or as the model was published to see it (``Segmenter.input_size``).
        flip: also average with the mirrored image.
    """

    window: int | None
    overlap: float
    scales: Sequence[Scale] | None
    flip: bool


def predict(
    segmenter: Segmenter,
    image: ImageLike,
    *,
    max_pixels: int = MAX_PIXELS,
    **views: Unpack[Views],
) -> Tensor:
    """The class of every pixel.

    Images of more than ``WHOLE_PIXELS`` pixels, and all images if ``window`` is given, are cut into overlapping windows
    whose logits are averaged, less towards a window's edge.

    Args:
        segmenter: the model, on any device; its modes are left as they were.
        image: see :func:`segproto.data.picture.look_at`.
        max_pixels: larger images are refused.
        views: ``window``, ``overlap``, ``scales``, ``flip``: see :class:`Views`.

    Returns:
        (H, W) on the CPU, classes 0..C-1: uint8; int16 if there are more than 255. Pixels that hold no image (nodata,
        a mask of the file's own, a transparent one of a TIFF) are 255.

    Raises:
        DataError: if the image cannot be read or is too large (naming ``--max-pixels``).
        ConfigError: if an option is out of range.
    """
    picture = look_at(image, max_pixels, segmenter.encoder.pixels)
    dtype = label_dtype(segmenter.head.num_classes)
    with evaluating(segmenter):
        return stacked(predict_bands(segmenter, picture, **views), picture, dtype)


def stacked(bands: Iterable[Tensor], picture: Picture, dtype: torch.dtype) -> Tensor:
    """Bands of rows (R, W) as the mask (H, W) of an image, which is the one thing of its size that is held."""
    mask = torch.empty(picture.height, picture.width, dtype=dtype)
    done = 0
    for band in bands:
        mask[done : done + len(band)] = band
        done += len(band)
    return mask


def predict_logits(
    segmenter: Segmenter, image: ImageLike, *, scales: Sequence[Scale] | None = None, flip: bool = False
) -> Tensor:
    """Logits (C, H, W) on the CPU of an image small enough to be seen at once.

    Raises:
        DataError: if it has more than ``WHOLE_PIXELS`` pixels.
    """
    picture = look_at(image, WHOLE_PIXELS, segmenter.encoder.pixels)
    scales = chosen_scales(segmenter, picture, None, scales)
    with evaluating(segmenter):
        pixels = picture.read(0, 0, picture.height, picture.width).to(next(segmenter.parameters()).device)
        fields = view_fields(segmenter, pixels[None], scales, flip)[0]
        return torch.cat([part.cpu() for part in field_logits(fields, (0, picture.height))], 1)


def predict_bands(segmenter: Segmenter, picture: Picture, **views: Unpack[Views]) -> Iterator[Tensor]:
    """The mask from the top, in bands of rows, (R, W) on the CPU each; options as :func:`predict`.

    Call it under :func:`segproto.model.windows.evaluating`: a generator cannot hold that state itself.
    """
    done = 0
    for logits in logit_bands(segmenter, picture, **views):
        rows = labels_of(logits, picture, done)
        done += len(rows)
        yield rows


def labels_of(logits: Tensor, picture: Picture, top: int) -> Tensor:
    """The class of the largest of logits (C, R, W), (R, W) on the CPU; 255 where there is no image.

    Args:
        logits: of a band of rows.
        picture: the image.
        top: the band's first row in it.
    """
    rows = logits.max(0)[1].to(label_dtype(len(logits))).cpu()
    if picture.inside is not None:
        rows[~picture.inside(top, 0, top + len(rows), picture.width)] = IGNORE_INDEX
    return rows


def logit_bands(
    segmenter: Segmenter,
    picture: Picture,
    *,
    window: int | None = None,
    overlap: float = OVERLAP,
    scales: Sequence[Scale] | None = None,
    flip: bool = False,
    maps: Maps | None = None,
) -> Iterator[Tensor]:
    """Logits from the top, in bands of rows: (C, R, W) each, on the model's device; options as :func:`predict`.

    Where windows overlap they are weighted sums, not divided by the weights.

    Args:
        segmenter: the model.
        picture: the image.
        window: see :class:`Views`; also the others.
        overlap: of windows.
        scales: of the image; sizes only of one that is seen whole.
        flip: also mirrored.
        maps: normalised images (1, 3, H, W) to the maps (1, K, h, w) that take the place of the model's logits.
    """
    scales = chosen_scales(segmenter, picture, window, scales)
    size = (picture.height, picture.width)
    window = chosen_window(segmenter, size, window, scales)
    if window is None:
        pixels = picture.read(0, 0, *size).to(next(segmenter.parameters()).device)
        yield from field_logits(view_fields(segmenter, pixels[None], scales, flip, maps)[0], (0, size[0]))
        return
    active: list[WindowRow] = []
    done = 0
    for row, until in window_rows(segmenter, picture, window, overlap, scales, flip, maps):
        active.append(row)
        yield from blend(active, (done, until), size, window * overlap)
        active = [r for r in active if r.span[1] > until]
        done = until


def chosen_window(
    segmenter: Segmenter, size: tuple[int, int], window: int | None, scales: Sequence[Scale]
) -> int | None:
    """The side of the windows an image of (height, width) is seen through; None = it is seen at once."""
    view = segmenter.encoder.view
    if any(isinstance(scale, tuple) for scale in scales):
        return None
    if window is None and view.always:
        window = view.window
    if window is None and size[0] * size[1] > whole_pixels(segmenter):
        return view.window or WINDOW
    return window


def whole_pixels(segmenter: Segmenter) -> int:
    """Larger images go through windows: ``WHOLE_PIXELS``, or what was seen at once in training if that is more."""
    return max(WHOLE_PIXELS, segmenter.encoder.view.whole)


def chosen_scales(
    segmenter: Segmenter, picture: Picture, window: int | None, scales: Sequence[Scale] | None
) -> Sequence[Scale]:
    """The scales asked for; if none and no window, how the model was published to see an image.

    Raises:
        ConfigError: scales out of range.
    """
    if scales is None:
        own = segmenter.input_size if window is None else None
        return (1.0,) if own is None else (seen_size((picture.height, picture.width), own),)
    if not scales or not all(isinstance(scale, tuple) or 0 < scale <= 8 for scale in scales):
        raise ConfigError(f"scales {list(scales)}: expected one or more factors in 0..8, such as 0.75,1,1.25")
    return scales


def seen_size(size: tuple[int, int], input_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) an image of ``size`` is resized to: a shorter side, aspect kept, or just these numbers."""
    if isinstance(input_size, tuple):
        return input_size
    return input_size * size[0] // min(size), input_size * size[1] // min(size)
