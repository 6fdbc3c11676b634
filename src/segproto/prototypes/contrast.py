"""Losses between pixels and prototypes that no gradient moves (Zhou et al. 2022, section 3.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segproto.prototypes.clustering import VOID_TARGET
from segproto.prototypes.numerics import at_least_float32


def pixel_prototype_infonce(
    similarities: Tensor, targets: Tensor, *, temperature: float = 0.1, normaliser: Tensor | None = None
) -> Tensor:
    """Pixel-prototype contrastive loss: InfoNCE with one positive and C*K - 1 negatives (Zhou et al. 2022).

    Mean over labelled pixels of ``-log(exp(s_t / T) / sum_j exp(s_j / T))``; the other prototypes of the pixel's own
    class are negatives too. From 0 to about ln(C*K) + 2/T. As published in code T = 1, which cannot fall below 4.25
    at C*K = 190; the paper has 0.1.

    Args:
        similarities: (N, C*K) cosines, with gradient to the embeddings.
        targets: (N,) int64 prototype of each pixel, -1 = void (:class:`Clustering`).
        temperature: T > 0.
        normaliser: what the sum is divided by instead of the number of labelled pixels, for means over processes.

    Returns:
        Scalar float32; 0 with zero gradient if all pixels are void.
    """
    total: Tensor = _SumInfoNCE.apply(at_least_float32(similarities), targets, temperature)
    return total / _count(targets, normaliser)


class _SumInfoNCE(torch.autograd.Function):
    """Cross-entropy of ``s / T`` summed over labelled pixels, holding one (N, C*K) buffer at a time.

    Plain autograd holds three: the (N, C*K) similarities of 65,536 pixels and 847 classes are 2 GB each.
    """

    @staticmethod
    def forward(ctx: Any, similarities: Tensor, targets: Tensor, temperature: float) -> Tensor:
        top = similarities.amax(1, keepdim=True)
        spread = (similarities - top).mul_(1 / temperature).exp_().sum(1, keepdim=True)
        normal = spread.log_().add_(top, alpha=1 / temperature)
        ctx.save_for_backward(similarities, targets, normal)
        ctx.temperature = temperature
        own = similarities.gather(1, targets.clamp_min(0)[:, None]) / temperature
        return torch.where(targets == VOID_TARGET, 0, (normal - own)[:, 0]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        similarities, targets, normal = ctx.saved_tensors
        out = (similarities * (1 / ctx.temperature)).sub_(normal).exp_()
        out.scatter_add_(1, targets.clamp_min(0)[:, None], -torch.ones_like(normal))
        scale = torch.where(targets == VOID_TARGET, 0, gradient / ctx.temperature)
        return out.mul_(scale[:, None]), None, None


def pixel_prototype_distance(similarities: Tensor, targets: Tensor, *, normaliser: Tensor | None = None) -> Tensor:
    """Mean over labelled pixels of ``(1 - s_t)^2`` (Zhou et al. 2022): draws pixels to their prototype.

    Args:
        similarities: (N, C*K) cosines, with gradient to the embeddings.
        targets: (N,) int64 prototype of each pixel, -1 = void.
        normaliser: as in :func:`pixel_prototype_infonce`.

    Returns:
        Scalar float32 in 0..4; 0 with zero gradient if all pixels are void.
    """
    own = at_least_float32(similarities.gather(1, targets.clamp_min(0)[:, None]))[:, 0]
    total = torch.where(targets == VOID_TARGET, 0, (1 - own).square()).sum()
    return total / _count(targets, normaliser)


def _count(targets: Tensor, normaliser: Tensor | None) -> Tensor:
    count = (targets != VOID_TARGET).sum() if normaliser is None else normaliser
    return count.float().clamp_min(1e-6)  # a share of the pixels of all processes may be below 1
