"""Cross-entropy of logits enlarged to the image, without ever holding them at that size."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segproto.prototypes.labels import IGNORE_INDEX
from segproto.prototypes.numerics import exact_float32

BAND = 2**20  # numbers of a band of enlarged logits


def enlarged_cross_entropy(
    logits: Tensor, labels: Tensor, *, aligned: bool = False, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy of bilinearly enlarged logits, summed over the pixels that are not void.

    Equals ``F.cross_entropy(F.interpolate(logits, labels.shape[1:], mode="bilinear"), labels, reduction="sum")``. On a
    CPU both are worked out in bands of rows: the logits of 847 classes at 321x321 pixels are 350 MB, which plain
    operations write and read five times. The gradient of a band is taken where the band is at hand, as the gradient of
    the sum, and kept at the size of the grid.

    Args:
        logits: (B, C, h, w) float32 or float64.
        labels: (B, H, W) int64, ``IGNORE_INDEX`` = void.
        aligned: corners of grid and image lie on each other.
        weight: (C,) of each class's pixels; None = equal.

    Returns:
        Scalar.
    """
    size = (labels.shape[1], labels.shape[2])
    if logits.device.type != "cpu" or torch.compiler.is_compiling():
        large = F.interpolate(logits, size=size, mode="bilinear", align_corners=aligned)
        return F.cross_entropy(large, labels, weight=weight, ignore_index=IGNORE_INDEX, reduction="sum")
    out: Tensor = _EnlargedCrossEntropy.apply(logits, labels, aligned, weight)
    return out


class _EnlargedCrossEntropy(torch.autograd.Function):
    """The sum, and at once its gradient on the grid."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, aligned: bool, weight: Tensor | None) -> Tensor:
        with exact_float32(logits.device):
            total, slope = sum_and_slope(logits, labels, aligned, weight, ctx.needs_input_grad[0])
        ctx.save_for_backward(*(() if slope is None else (slope,)))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return (slope * grad).permute(0, 3, 1, 2), None, None, None


def sum_and_slope(
    logits: Tensor, labels: Tensor, aligned: bool, weight: Tensor | None, sloped: bool
) -> tuple[Tensor, Tensor | None]:
    """The sum of :func:`enlarged_cross_entropy` and, if asked for, its gradient (B, h, w, C), band by band."""
    cells = logits.permute(0, 2, 3, 1).contiguous()  # (B, h, w, C): a pixel's logits side by side
    rows, columns = (enlarging(n, m, aligned, logits) for n, m in zip(cells.shape[1:3], labels.shape[1:], strict=True))
    slope = torch.zeros_like(cells) if sloped else None
    total = logits.new_zeros(())
    step = max(1, BAND // (columns.shape[0] * cells.shape[3]))
    for image in range(len(cells)):
        for top in range(0, len(rows), step):
            part = rows[top : top + step]
            used = part.any(0).nonzero()[[0, -1], 0].tolist()  # a band of the image needs a band of the grid
            own = slice(used[0], used[1] + 1)
            part = part[:, own]
            band = torch.matmul(columns, torch.tensordot(part, cells[image, own], 1))  # (R, W, C)
            loss, gradient = cross_entropy_and_slope(band, labels[image, top : top + step], weight, sloped)
            total += loss
            if slope is not None:
                slope[image, own] += torch.tensordot(part.T, torch.matmul(columns.T, gradient), 1)
    return total, slope


def cross_entropy_and_slope(
    logits: Tensor, labels: Tensor, weight: Tensor | None, sloped: bool
) -> tuple[Tensor, Tensor]:
    """Sum over the pixels of logits (R, W, C) with labels (R, W); if ``sloped`` its gradient, where the logits were."""
    void = labels == IGNORE_INDEX
    safe = labels.masked_fill(void, 0)
    share = (~void).to(logits.dtype) if weight is None else weight.to(logits.dtype)[safe].masked_fill(void, 0)
    own = logits.gather(2, safe[..., None])
    top = logits.amax(2, keepdim=True)
    odds = logits.sub_(top).exp_()
    spread = odds.sum(2, keepdim=True)
    loss = torch.where(void, 0, share * (spread.log() + top - own)[..., 0]).sum()
    if not sloped:
        return loss, odds
    slope = odds.mul_(share[..., None] / spread)
    return loss, slope.scatter_add_(2, safe[..., None], -share[..., None])


def enlarging(length: int, size: int, aligned: bool, like: Tensor) -> Tensor:
    """(size, length): what each of ``size`` pixels takes of each of ``length`` cells, as ``F.interpolate`` does."""
    each = torch.eye(length, dtype=torch.float64)[None]
    weights = F.interpolate(each, size=size, mode="linear", align_corners=aligned)[0].T  # (size, length)
    return weights.to(like)
