"""Training losses of prototype models, on tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.prototypes.labels import IGNORE_INDEX


def grid_cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int = IGNORE_INDEX, weight: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy over the cells that are not void; 0 with zero gradient if all are.

    Args:
        logits: (B, C, h, w).
        labels: (B, h, w) int64.
        ignore_index: the void label.
        weight: (C,) of a weighted mean, each cell with the weight of its class; None = equal.
    """
    total = F.cross_entropy(logits.float(), labels, weight=weight, ignore_index=ignore_index, reduction="sum")
    weights = pixel_weights(labels, weight, ignore_index)
    return total / (weights.sum().clamp_min(1) if weight is None else weights.sum().clamp_min(1e-6))


def pixel_weights(labels: Tensor, weight: Tensor | None, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """The part of each pixel in a mean weighted by class (C,): that of its class (1 without weights), 0 for void."""
    labelled = labels != ignore_index
    return labelled if weight is None else weight[labels.masked_fill(~labelled, 0)] * labelled


def off_class_l1(weight: Tensor, class_of_unit: Tensor) -> Tensor:
    """Sum (not mean) of the absolute readout weights between units and other classes.

    Args:
        weight: (C, U) readout.
        class_of_unit: (U,) class of each prototype or group.
    """
    other = class_of_unit != torch.arange(weight.shape[0], device=weight.device)[:, None]
    return (weight.abs() * other).sum()


def group_entropy(weights: Tensor, mask: Tensor) -> Tensor:
    """Mean over all groups of ``-sum_i w_i ln(w_i + 1e-5) / ln(n_c)`` (Porta et al. 2025).

    A group of a class with one prototype counts 0. About 1 for uniform weights, about 0 for a single one.

    Args:
        weights: (K, G, n) group weights, padded.
        mask: (K, n) bool, False where padded.
    """
    size = mask.sum(-1, keepdim=True)
    scale = torch.where(size > 1, 1 / size.to(weights.dtype).log().clamp_min(1e-6), 0)
    valid = mask[:, None]
    w = torch.where(valid, weights, 0)
    logarithm = torch.where(valid, w + 1e-5, 1).log()
    return (-(w * logarithm).sum(-1) * scale).mean()
