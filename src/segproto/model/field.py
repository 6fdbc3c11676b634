"""Maps on the feature grid, seen at the pixels: bilinear, ``align_corners=False``, by rows or at single pixels."""

from __future__ import annotations

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
    """

    grid: Tensor
    size: tuple[int, int]
    step: tuple[float, float]
    mirrored: bool = False

    @classmethod
    def over(
        cls, grid: Tensor, encoder: Encoder, size: tuple[int, int], seen: tuple[int, int], mirrored: bool = False
    ) -> Field:
        """The field of an image of ``size`` that the encoder saw resized to ``seen``."""
        padded = encoder.padded_size(*seen)
        step_y = padded[0] / grid.shape[-2] * size[0] / seen[0]
        step_x = padded[1] / grid.shape[-1] * size[1] / seen[1]
        return cls(grid, size, (step_y, step_x), mirrored)

    def rows(self, start: int, stop: int) -> Tensor:
        """The maps at image rows ``start..stop-1``: (K, stop - start, width).

        Equal to ``F.interpolate(..., mode="bilinear", align_corners=False)`` of the whole, cropped to the image.
        """
        lower, upper, part = _taps(torch.arange(start, stop), self.step[0], self.grid.shape[1])
        device, dtype = self.grid.device, self.grid.dtype
        part = part.to(device=device, dtype=dtype)[:, None]
        lines = torch.lerp(self.grid[:, lower.to(device)], self.grid[:, upper.to(device)], part)
        width = self.size[1]
        # F.interpolate can not be told the ratio apart from the size; the operator below it can.
        full: Tensor = torch.ops.aten.upsample_bilinear2d.default(
            lines[None], [stop - start, width], False, 1.0, self.step[1]
        )[0]
        return full.flip(-1) if self.mirrored else full

    def cells(self, ys: Tensor, xs: Tensor) -> tuple[Tensor, Tensor]:
        """The four cells (row-major index, int64 (N, 4)) each pixel is mixed from, and their shares (N, 4).

        Args:
            ys: (N,) pixel rows, int64.
            xs: (N,) pixel columns, int64.
        """
        h, w = self.grid.shape[-2:]
        xs = self.size[1] - 1 - xs if self.mirrored else xs
        top, bottom, down = _taps(ys, self.step[0], h)
        left, right, across = _taps(xs, self.step[1], w)
        index = torch.stack([top * w + left, top * w + right, bottom * w + left, bottom * w + right], 1)
        up, back = 1 - down, 1 - across
        weight = torch.stack([up * back, up * across, down * back, down * across], 1)
        return index, weight.float()


def _taps(pixels: Tensor, step: float, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two neighbouring cells of each pixel along one axis and the share (float64) of the second."""
    centre = ((pixels.double() + 0.5) / step - 0.5).clamp(0, cells - 1)
    lower = centre.floor().long()
    return lower, (lower + 1).clamp(max=cells - 1), centre - lower
