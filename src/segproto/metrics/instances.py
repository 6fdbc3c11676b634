"""Instance IoU: IoU in which every single thing of a class weighs the same, near or far (Cordts et al. 2016, 4.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segproto.prototypes.labels import IGNORE_INDEX


def instance_shares(
    pred: Tensor, target: Tensor, instances: Tensor, num_classes: int, ignore: int = IGNORE_INDEX
) -> Tensor:
    """How much of each instance was found, summed by class.

    Args:
        pred: (H, W) predicted classes, any integer type.
        target: (H, W) true classes; ``ignore`` = void, left out.
        instances: (H, W) number of the instance at each pixel, 0 = none.
        num_classes: C.
        ignore: the void label.

    Returns:
        float64 (2, C): sum over a class's instances of the share of its pixels that was predicted right; the number of
        its instances.
    """
    target, instances = target.to(torch.int64), instances.to(torch.int64)
    inside = (target != ignore) & (instances > 0)
    keys = instances[inside] * num_classes + target[inside]
    segments, segment_of, sizes = torch.unique(keys, return_inverse=True, return_counts=True)
    right = torch.zeros(len(segments), dtype=torch.float64, device=pred.device)
    right.index_add_(0, segment_of, (pred[inside] == target[inside]).double())
    sums = torch.zeros(2, num_classes, dtype=torch.float64, device=pred.device)
    return sums.index_add_(1, segments % num_classes, torch.stack([right / sizes, torch.ones_like(right)]))


def instance_iou(shares: Tensor, confusion: Tensor, mean_sizes: Tensor) -> list[float | None]:
    """``iTP / (iTP + FP + iFN)``: instances weigh (mean size of the class) / (own size), false positives 1.

    Args:
        shares: (2, C) sums of :func:`instance_shares` over all images.
        confusion: (C, C) pixels over all images, rows = true classes.
        mean_sizes: (C,) mean pixels of one instance in the training set; NaN for classes without instances.

    Returns:
        One value per class in [0, 1]; None without instances, or if the class was neither present nor predicted.
    """
    counts, sizes = confusion.to("cpu", torch.float64), mean_sizes.to("cpu", torch.float64)
    right, number = shares.to("cpu", torch.float64)
    false = counts.sum(0) - counts.diagonal()
    iou = sizes * right / (sizes * number + false)
    return [None if math.isnan(value) else value for value in iou.tolist()]
