"""Maps on the feature grid, seen at the pixels: bilinear, as ``encoder.enlarge`` says, by rows or at single pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from segproto.encoders.base import Encoder


@dataclass(frozen=True)
class Field:
    """K maps on a grid, laid over an image.

    Attributes:
        grid: (K, h, w).
        size: (height, width) of the image in pixels.
        step: image pixels per cell, down and across; the grid may reach beyond the image (padding).
        mirrored: the grid belongs to the image flipped left to right.
        aligned: corners of grid and image lie on each other: ``step`` then counts from the first pixel's centre.
    """

    grid: Tensor
    size: tuple[int, int]
    step: tuple[float, float]
    mirrored: bool = False
    aligned: bool = False

    @classmethod
    def over(
        cls, grid: Tensor, encoder: Encoder, size: tuple[int, int], seen: tuple[int, int], mirrored: bool = False
    ) -> Field:
        """The field of an image of ``size`` that the encoder saw resized to ``seen``."""
        padded = encoder.padded_size(*seen)
        if encoder.config.aligned:
            last = [[side - 1 for side in sides] for sides in (grid.shape[-2:], padded, size, seen)]
            step_y, step_x = (corner_step(*sides) for sides in zip(*last, strict=True))
            return cls(grid, size, (step_y, step_x), mirrored, aligned=True)
        step_y = padded[0] / grid.shape[-2] * size[0] / seen[0]
        step_x = padded[1] / grid.shape[-1] * size[1] / seen[1]
        return cls(grid, size, (step_y, step_x), mirrored)

    def rows(self, start: int, stop: int) -> Tensor:
        """The maps at image rows ``start..stop-1``: (K, stop - start, width).

        Equal to ``F.interpolate(..., mode="bilinear", align_corners=aligned)`` of the whole, cropped to the image.
        """
        lower, upper, part = self._taps(torch.arange(start, stop), 0)
        device, dtype = self.grid.device, self.grid.dtype
        part = part.to(device=device, dtype=dtype)[:, None]
        lines = torch.lerp(self.grid[:, lower.to(device)], self.grid[:, upper.to(device)], part)
        width = self.size[1]
        full: Tensor
        if self.aligned:
            lower, upper, part = self._taps(torch.arange(width), 1)
            part = part.to(device=device, dtype=dtype)
            full = torch.lerp(lines[..., lower.to(device)], lines[..., upper.to(device)], part)
        else:  # F.interpolate can not be told the ratio apart from the size; the operator below it can.
            height = stop - start
            full = torch.ops.aten.upsample_bilinear2d.default(lines[None], [height, width], False, 1.0, self.step[1])[0]
        return full.flip(-1) if self.mirrored else full

    def cell_rows(self) -> Tensor:
        """(height,) int64: for every image row the row of cells that it is mixed from, the upper one of the two."""
        return self._taps(torch.arange(self.size[0]), 0)[0]

    def cells(self, ys: Tensor, xs: Tensor) -> tuple[Tensor, Tensor]:
        """The four cells (row-major index, int64 (N, 4)) each pixel is mixed from, and their shares (N, 4).

        Args:
            ys: (N,) pixel rows, int64.
            xs: (N,) pixel columns, int64.
        """
        w = self.grid.shape[-1]
        xs = self.size[1] - 1 - xs if self.mirrored else xs
        top, bottom, down = self._taps(ys, 0)
        left, right, across = self._taps(xs, 1)
        index = torch.stack([top * w + left, top * w + right, bottom * w + left, bottom * w + right], 1)
        up, back = 1 - down, 1 - across
        weight = torch.stack([up * back, up * across, down * back, down * across], 1)
        return index, weight.float()

    def _taps(self, pixels: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
        """The two neighbouring cells of each pixel along one axis and the share (float64) of the second."""
        cells, step = self.grid.shape[1 + axis], self.step[axis]
        centre = pixels.double() / step if self.aligned else (pixels.double() + 0.5) / step - 0.5
        centre = centre.clamp(0, cells - 1)
        lower = centre.floor().long()
        return lower, (lower + 1).clamp(max=cells - 1), centre - lower


def corner_step(grid: int, padded: int, size: int, seen: int) -> float:
    """Image pixels from cell to cell where corners lie on each other, from the last index of each; inf for one cell."""
    if grid == 0 or size == 0:
        return math.inf
    return padded / grid * size / seen if seen > 0 else math.inf
