"""Pixels and the grid cells they belong to, and quantiles of maps without upsampling them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segproto.prototypes.labels import IGNORE_INDEX, nearest_table

Size = tuple[int, int]
CellRule = Literal["centre", "floor"]


@lru_cache(maxsize=8)
def pixel_cells(size: Size, grid: Size, area: Size, rule: CellRule = "centre") -> Tensor:
    """The cell of each pixel: what resizing a map to the image with a NEAREST filter shows there.

    ``centre`` is the cell under the pixel's centre, as Pillow's filter and torch's ``nearest-exact`` have it. ``floor``
    is the cell ``floor(x w / W)`` under the pixel's left upper corner, as OpenCV's INTER_NEAREST has it (``resizeNN``:
    ``floor(x * (1 / (W / w)))`` in double precision). They agree where W is a multiple of w;
    on a grid of 65 for 513 pixels 12 % of the pixels differ.

    Args:
        size: (H, W) of the image.
        grid: (h, w).
        area: (height, width) in pixels that the grid covers; at least ``size``.
        rule: which cell.

    Returns:
        int64 (H, W), row-major index of the cell; do not write to it.
    """
    table = nearest_table if rule == "centre" else floor_table
    rows, columns = (table(cells, side)[:length] for cells, side, length in zip(grid, area, size, strict=True))
    return rows[:, None] * grid[1] + columns


def floor_table(source: int, target: int) -> Tensor:
    """Source index of each of ``target`` samples by OpenCV's INTER_NEAREST: int64 (target,)."""
    places = torch.arange(target, dtype=torch.float64) * (1 / (target / source))
    return places.floor().long().clamp_max(source - 1)


def cell_pixels(size: Size, grid: Size, area: Size) -> Tensor:
    """Image pixels in each cell: int64 (h*w,), 0 for a cell in the padding."""
    rows = torch.bincount(nearest_table(grid[0], area[0])[: size[0]], minlength=grid[0])
    columns = torch.bincount(nearest_table(grid[1], area[1])[: size[1]], minlength=grid[1])
    return (rows[:, None] * columns).flatten()


def class_pixels(mask: Tensor, cells: Tensor, num_classes: int, num_cells: int) -> Tensor:
    """Pixels of each class in each cell.

    Args:
        mask: (H, W) classes 0..C-1, 255 = void.
        cells: int64 (H, W) of :func:`pixel_cells`.
        num_classes: C.
        num_cells: N.

    Returns:
        int64 (C, N).

    Raises:
        ValueError: a class outside 0..C-1.
    """
    labels = max(256, num_classes)
    if mask.dtype != torch.uint8:
        if mask.numel() and not (int(mask.min()) >= 0 and int(mask.max()) < labels):
            raise ValueError(
                f"the mask holds {int(mask.min())}..{int(mask.max())}, expected 0..{num_classes - 1} or 255"
            )
        mask = mask.to(torch.uint8 if labels == 256 else torch.int16)
    starts = np.arange(labels) * num_cells  # of each label's counts
    starts[num_classes:], starts[IGNORE_INDEX] = (num_classes + 1) * num_cells, num_classes * num_cells
    keys = starts[mask.cpu().numpy()] + cells.numpy()
    counts = torch.from_numpy(np.bincount(keys.ravel(), minlength=(num_classes + 2) * num_cells))
    counts = counts.view(num_classes + 2, num_cells)
    if bool(counts[num_classes + 1].any()):
        largest = int(mask[(mask >= num_classes) & (mask != IGNORE_INDEX)].max())
        raise ValueError(f"the mask holds class {largest}, expected 0..{num_classes - 1} or 255")
    return counts[:num_classes]


def ranks(totals: Tensor, quantiles: Sequence[float]) -> Tensor:
    """Index of the order statistic just at or below each quantile: int64 (Q, *totals.shape).

    ``value > quantile`` (linear interpolation, as NumPy's) and ``value > this order statistic`` say the same of every
    value of the sample, so nothing needs interpolating.
    """
    positions = torch.tensor(quantiles, dtype=torch.float64).view(-1, *[1] * totals.ndim)
    return ((totals - 1).clamp_min(0) * positions.to(totals.device)).floor().long()


def segment_quantiles(
    values: Tensor, weights: Tensor, segment: Tensor, segments: int, quantiles: Sequence[float]
) -> Tensor:
    """Per segment, the order statistic below each quantile of a sample that holds each value ``weights`` times.

    Args:
        values: (M,).
        weights: int64 (M,), >= 1.
        segment: int64 (M,) 0..S-1.
        segments: S.
        quantiles: each in [0, 1).

    Returns:
        (Q, S), inf for an empty segment: nothing exceeds it.
    """
    order = torch.from_numpy(values.numpy().argsort())  # NumPy's is three times as fast as torch's
    order = order[segment[order].argsort(stable=True)]
    totals = torch.zeros(segments, dtype=torch.int64, device=values.device).index_add(0, segment, weights)
    ends = weights[order].cumsum(0)
    target = totals.cumsum(0) - totals + ranks(totals, quantiles)
    index = torch.searchsorted(ends, target, right=True).clamp_max(max(len(values) - 1, 0))
    quantile = values[order][index] if len(values) else values.new_zeros(index.shape)
    return torch.where(totals > 0, quantile, torch.inf)


def row_quantiles(values: Tensor, weights: Tensor, quantiles: Sequence[float]) -> Tensor:
    """The same for rows that share their weights.

    Args:
        values: (U, N).
        weights: int64 (N,), >= 0; their sum is the sample's size.
        quantiles: each in [0, 1).

    Returns:
        (Q, U).
    """
    ordered, order = values.sort(1)
    ends = weights[order].cumsum(1)
    target = ranks(weights.sum()[None], quantiles).expand(-1, len(values))
    index = torch.searchsorted(ends, target.T.contiguous(), right=True)
    return ordered.gather(1, index.clamp_max(values.shape[1] - 1)).T
