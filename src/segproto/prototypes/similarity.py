"""How a prototype is compared with a feature (Sacha et al. 2023, Porta et al. 2025; section 3.1 of both)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segproto.prototypes.numerics import exact_float32

CENTRE = 0.5
EPSILON = 1e-4


def squared_distances(features: Tensor, vectors: Tensor, scale_ranges: Sequence[tuple[int, int]]) -> Tensor:
    """Squared Euclidean distance of every prototype to every cell of its own scale.

    Uses ``|x|^2 - 2 x.p + |p|^2`` in float32, with both sides centred by 0.5 first: that leaves the distance unchanged
    and keeps an exact match exact (to about 1e-6) for features in (0, 1).

    Args:
        features: (B, S*D, h, w), scales side by side in channel blocks of D.
        vectors: (P, D), prototypes ordered by scale.
        scale_ranges: one (start, end) of prototype indices a scale; together they cover 0..P.

    Returns:
        (B, P, h, w) float32 (float64 for float64 features), >= 0.

    Raises:
        ValueError: if the features do not have S*D channels.
    """
    batch, channels, height, width = features.shape
    num_scales, dim = len(scale_ranges), vectors.shape[1]
    if channels != num_scales * dim:
        raise ValueError(f"features have {channels} channels, expected {num_scales} scales x {dim}")
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    with exact_float32(features.device):
        x = features.to(dtype).reshape(batch, num_scales, dim, height * width) - CENTRE
        p = vectors.to(dtype) - CENTRE
        # The two squares ride along as extra columns of one matrix product: no (B, P, h, w) temporary for them.
        cells = torch.cat([x, torch.ones_like(x[:, :, :1]), x.square().sum(2, keepdim=True)], dim=2)
        rows = torch.cat([-2 * p, p.square().sum(1, keepdim=True), torch.ones_like(p[:, :1])], dim=1)
        if len({end - start for start, end in scale_ranges}) == 1:
            out = torch.matmul(rows.view(num_scales, len(vectors) // num_scales, dim + 2), cells).reshape(
                batch, -1, height * width
            )
        else:
            parts = [torch.matmul(rows[a:b], cells[:, s]) for s, (a, b) in enumerate(scale_ranges)]
            out = torch.cat(parts, dim=1)
        return torch.relu_(out).view(batch, -1, height, width)


def log_activation(distances: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Similarity ``ln((d + 1) / (d + epsilon))`` of squared distances d >= 0 (Sacha et al. 2023, eq. 1).

    Falls from ``-ln(epsilon)`` (9.2103 at an exact match) to 0. Same shape as ``distances``.
    """
    out: Tensor = _LogActivation.apply(distances, epsilon)
    return out


class _LogActivation(torch.autograd.Function):
    """Keeps only the distances for the backward pass, where plain operations would keep three maps of their size."""

    @staticmethod
    def forward(ctx: Any, distances: Tensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(distances)
        ctx.epsilon = epsilon
        ratio = torch.reciprocal(distances + epsilon).mul_(1 - epsilon).add_(1)  # = (d + 1) / (d + epsilon)
        return ratio.log_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (distances,) = ctx.saved_tensors
        slope = (distances + 1).mul_(distances + ctx.epsilon).reciprocal_().mul_(ctx.epsilon - 1)
        return slope.mul_(grad), None
