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
    return total / labelled_weight(labels, weight, ignore_index)


def focal_loss(
    logits: Tensor, labels: Tensor, gamma: float = 2.0, ignore_index: int = IGNORE_INDEX, weight: Tensor | None = None
) -> Tensor:
    """Mean of ``-(1 - p)^gamma ln p`` over the cells that are not void (Lin et al. 2017, eq. 4 and 5).

    ``p`` is the softmax probability of the cell's class. ``gamma`` 0 gives :func:`grid_cross_entropy`.

    Args:
        logits: (B, C, h, w).
        labels: (B, h, w) int64.
        gamma: >= 0; the larger, the less cells count that are right already.
        ignore_index: the void label.
        weight: (C,) of a weighted mean (alpha in the paper), as in :func:`grid_cross_entropy`.
    """
    weights = pixel_weights(labels, weight, ignore_index)
    safe = labels.masked_fill(labels == ignore_index, 0)
    log_p = logits.float().log_softmax(1).gather(1, safe[:, None])[:, 0]
    # 1 - p as a difference of exponentials has no digits left near p = 1, nor a gradient of its power below gamma 1
    missed = (-torch.expm1(log_p)).clamp_min(1e-12)
    total = (-(missed**gamma) * log_p * weights).sum()
    return total / labelled_weight(labels, weight, ignore_index)


def dice_loss(logits: Tensor, labels: Tensor, ignore_index: int = IGNORE_INDEX, smooth: float = 1.0) -> Tensor:
    """One minus the soft Dice score, the mean over the classes that the batch shows; 0 if all is void.

    Per class ``(2 sum p g + s) / (sum p + sum g + s)`` over all cells of the batch that are not void (Milletari et al.
    2016 with the plain sums of Sudre et al. 2017), ``p`` the softmax probability, ``g`` 1 where the label is the class.

    Args:
        logits: (B, C, h, w).
        labels: (B, h, w) int64.
        ignore_index: the void label.
        smooth: ``s``.
    """
    labelled = (labels != ignore_index)[:, None]
    classes = torch.arange(logits.shape[1], device=labels.device)[None, :, None, None]
    truth = ((labels[:, None] == classes) & labelled).float()
    shares = logits.float().softmax(1) * labelled
    dims = (0, 2, 3)
    both, sizes = (shares * truth).sum(dims), shares.sum(dims) + truth.sum(dims)
    shown = truth.sum(dims) > 0
    scores = (2 * both + smooth) / (sizes + smooth)
    return ((1 - scores) * shown).sum() / shown.sum().clamp_min(1)


def median_frequency_weights(pixels: Tensor, beside: Tensor, most: float = 10.0) -> Tensor:
    """Class weights that make rare classes count more: median frequency balancing (Eigen and Fergus 2015).

    Args:
        pixels: int64 (C,) of each class.
        beside: int64 (C,) labelled pixels of the images that show the class.
        most: weights lie within ``1/most .. most``: a class of a handful of pixels would rule the loss.

    Returns:
        float64 (C,): the median of the classes' frequencies over each class's own; 1 for a class without pixels.
    """
    shown = pixels > 0
    frequency = pixels.double() / beside.double().clamp_min(1)
    if not bool(shown.any()):
        return torch.ones(len(pixels), dtype=torch.float64)
    weights = frequency[shown].quantile(0.5) / frequency.clamp_min(1e-300)
    return torch.where(shown, weights.clamp(1 / most, most), 1.0)


def pixel_weights(labels: Tensor, weight: Tensor | None, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """The part of each pixel in a mean weighted by class (C,): that of its class (1 without weights), 0 for void."""
    labelled = labels != ignore_index
    return labelled if weight is None else weight[labels.masked_fill(~labelled, 0)] * labelled


def labelled_weight(labels: Tensor, weight: Tensor | None, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """What a sum over the labelled pixels is divided by for their (weighted) mean; above 0 where there are none."""
    total = pixel_weights(labels, weight, ignore_index).sum()
    return total.clamp_min(1 if weight is None else 1e-6)


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
