"""Overlapping windows over an image, and how their predictions are averaged, with bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segproto.data.base import label_dtype
from segproto.data.picture import Picture
from segproto.errors import ConfigError
from segproto.model.field import Field
from segproto.model.segmenter import Segmenter

ALIGN = 32  # windows start at multiples of this, so that their grids fall on each other (strides up to 32)
MAX_WINDOW = 8192
CHUNK = 2**21  # logits upsampled at once
CPU_PIXELS, GPU_PIXELS = 2**18, 2**22  # of a batch: a CPU gains from few small images at most, a GPU from many

Maps = Callable[[Tensor], Tensor]
Scale = float | tuple[int, int]  # a factor, or the (height, width) an image is stretched to


def spans(length: int, window: int, overlap: float) -> list[tuple[int, int]]:
    """Starts and stops of windows that cover ``0..length-1``, each at most ``window`` long.

    Neighbours share at least ``overlap * window`` pixels (a fraction in [0, 0.9]).

    Raises:
        ConfigError: if ``window`` or ``overlap`` is out of range.
    """
    if not (1 <= window <= MAX_WINDOW and 0 <= overlap <= 0.9):
        raise ConfigError(
            f"window {window}, overlap {overlap}: expected a window of 1..{MAX_WINDOW} and an overlap of 0..0.9"
        )
    if length <= window:
        return [(0, length)]
    align = ALIGN if window >= 4 * ALIGN else 1
    step = max(align, int(window * (1 - overlap)) // align * align)
    last = -(-(length - window) // align) * align
    return [(start, start + window) for start in range(0, last, step)] + [(last, length)]


@dataclass(frozen=True)
class WindowRow:
    """Predictions of the windows side by side in one band of rows: ``columns`` holds (span, fields) a window."""

    span: tuple[int, int]
    columns: list[tuple[tuple[int, int], list[Field]]]


def view_fields(
    segmenter: Segmenter, images: Tensor, scales: Sequence[Scale], flip: bool, maps: Maps | None = None
) -> list[list[Field]]:
    """Logits of images seen at several scales and flipped; their mean (of logits) is the prediction.

    Args:
        segmenter: in eval mode.
        images: pixels (B, N, H, W), on the model's device.
        scales: factors the normalised images are resized by, or sizes they are stretched to (bilinear).
        flip: also mirrored left to right.
        maps: normalised images to maps on the grid, in the place of ``segmenter.grid_logits``.

    Returns:
        The fields of each image.
    """
    maps = maps or segmenter.grid_logits
    inputs = segmenter.encoder.normalisation(images)
    size = (images.shape[-2], images.shape[-1])
    views: list[list[Field]] = []
    for scale in scales:
        scaled_size = (
            scale if isinstance(scale, tuple) else (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        )
        scaled = (
            inputs
            if scaled_size == size
            else F.interpolate(inputs, size=scaled_size, mode="bilinear", align_corners=False)
        )
        for mirrored in (False, True) if flip else (False,):
            grids = maps(scaled.flip(-1) if mirrored else scaled).float()
            views.append([Field.over(grid, segmenter.encoder, size, scaled_size, mirrored=mirrored) for grid in grids])
    return [list(fields) for fields in zip(*views, strict=True)]


def mean_rows(fields: Sequence[Field], start: int, stop: int) -> Tensor:
    """The mean of the fields at image rows ``start..stop-1``: (C, stop - start, W)."""
    total = fields[0].rows(start, stop)
    for field in fields[1:]:
        total += field.rows(start, stop)
    return total / len(fields) if len(fields) > 1 else total


def field_logits(fields: Sequence[Field], rows: tuple[int, int]) -> Iterator[Tensor]:
    """Mean logits (C, R, W) of a few rows at a time, from ``rows[0]`` up to ``rows[1]``."""
    classes, width = fields[0].grid.shape[0], fields[0].size[1]
    height = max(1, CHUNK // (classes * width))
    for start in range(*rows, height):
        yield mean_rows(fields, start, min(start + height, rows[1]))


def field_mask(fields: Sequence[Field]) -> Tensor:
    """The class of the largest mean logit at every pixel, (H, W), on the fields' device."""
    dtype = label_dtype(fields[0].grid.shape[0])
    parts = [logits.max(0)[1].to(dtype) for logits in field_logits(fields, (0, fields[0].size[0]))]
    return torch.cat(parts)


def batch_pixels(device: torch.device) -> int:
    """Of how many pixels the images are, at most, that go through the network together; one larger image goes alone."""
    return CPU_PIXELS if device.type == "cpu" else GPU_PIXELS


def sent(images: Tensor, device: torch.device) -> Tensor:
    """Pixels on the model's device, from pinned memory where that is a GPU."""
    return (images.pin_memory() if device.type == "cuda" else images).to(device, non_blocking=True)


def side_by_side(
    columns: Sequence[tuple[int, int]], height: int, device: torch.device
) -> Iterator[Sequence[tuple[int, int]]]:
    """The windows of a row in batches: neighbours of one width, so many as the device takes."""
    for width, alike in groupby(columns, key=lambda span: span[1] - span[0]):
        windows, most = list(alike), max(1, batch_pixels(device) // (height * width))
        yield from (windows[first : first + most] for first in range(0, len(windows), most))


def window_rows(
    segmenter: Segmenter,
    picture: Picture,
    window: int,
    overlap: float,
    scales: Sequence[Scale],
    flip: bool,
    maps: Maps | None = None,
) -> Iterator[tuple[WindowRow, int]]:
    """Rows of windows from the top, and with each the image row up to which no later window reaches."""
    device = next(segmenter.parameters()).device
    row_spans = spans(picture.height, window, overlap)
    column_spans = spans(picture.width, window, overlap)
    for i, (y0, y1) in enumerate(row_spans):
        columns: list[tuple[tuple[int, int], list[Field]]] = []
        for together in side_by_side(column_spans, y1 - y0, device):
            images = torch.stack([picture.read(y0, x0, y1, x1) for x0, x1 in together])
            columns += zip(together, view_fields(segmenter, sent(images, device), scales, flip, maps), strict=True)
        yield WindowRow((y0, y1), columns), row_spans[i + 1][0] if i + 1 < len(row_spans) else picture.height


def blend(active: Sequence[WindowRow], rows: tuple[int, int], size: tuple[int, int], ramp: float) -> Iterator[Tensor]:
    """Weighted sums of the windows' logits (C, R, W), a few rows at a time.

    A window's weight falls linearly to zero over ``ramp`` pixels towards each of its edges inside the image.
    The sums are not divided by the weights: that would not change the largest class.
    """
    first = active[0].columns[0][1][0].grid
    height = max(1, CHUNK // (first.shape[0] * size[1]))
    for start in range(*rows, height):
        stop = min(start + height, rows[1])
        total = first.new_zeros(first.shape[0], stop - start, size[1])
        for row in active:
            y0, y1 = row.span
            top, bottom = max(start, y0), min(stop, y1)
            if top >= bottom:
                continue
            down = _weights(row.span, size[0], ramp)[top - y0 : bottom - y0, None]
            for span, fields in row.columns:
                weight = (down * _weights(span, size[1], ramp)).to(total)
                part = mean_rows(fields, top - y0, bottom - y0)
                total[:, top - start : bottom - start, span[0] : span[1]] += part * weight
        yield total


def _weights(span: tuple[int, int], length: int, ramp: float) -> Tensor:
    """Weights of a window's pixels along one axis, 1 inside."""
    centres = torch.arange(span[1] - span[0]) + 0.5
    weight = torch.ones_like(centres)
    if span[0] > 0:
        weight = torch.minimum(weight, centres / max(ramp, 1))
    if span[1] < length:
        weight = torch.minimum(weight, (span[1] - span[0] - centres) / max(ramp, 1))
    return weight


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a model in eval mode without gradients, and every module back in its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
