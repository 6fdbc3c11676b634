"""EM on mask proposals (PriMaPs-EM: Hahn et al., TMLR 2024, section 3.2): vote, loss and the teacher's update.

Notation: B images, K categories, logits on the pixels of a mask map (B, H, W).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.prototypes.labels import IGNORE_INDEX
from segproto.prototypes.numerics import exact_float32
from segproto.prototypes.segments import Reduce, occurrences, one_process

Warmup = Literal["published", "none"]


def kmeans_loss(features: Tensor, vectors: Tensor) -> Tensor:
    """Cosine k-means: minus the mean over cells of the largest cosine with a prototype (Hamilton et al. 2022).

    Args:
        features: (B, C, h, w).
        vectors: (K, C), any length; the gradient goes to them alone.
    """
    unit = F.normalize(features.detach().float(), dim=1)
    with exact_float32(unit.device):
        cosines = torch.einsum("bchw,kc->bkhw", unit, F.normalize(vectors, dim=1))
    return -cosines.amax(1).mean()


def majority_vote(
    predictions: Tensor, regions: Tensor, num_classes: int, *, most: int = 255, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Every proposal gets the category that most of its pixels are predicted to have; ties go to the smallest.

    One count over (image, proposal, category), no loop over proposals.

    Args:
        predictions: int64 (B, H, W), 0..K-1, the teacher's.
        regions: int64 (B, H, W), proposals 1..``most``, 0 = none.
        num_classes: K.
        most: largest number of a proposal.
        ignore_index: label of pixels in no proposal.

    Returns:
        int64 (B, H, W) pseudo labels.

    Examples:
        >>> import torch
        >>> predictions = torch.tensor([[[3, 3, 1], [0, 2, 2]]])
        >>> regions = torch.tensor([[[1, 1, 1], [0, 2, 2]]])
        >>> majority_vote(predictions, regions, num_classes=4)
        tensor([[[  3,   3,   3],
                 [255,   2,   2]]])
    """
    images = torch.arange(len(regions), device=regions.device)[:, None, None]
    slots = images * (most + 1) + regions
    size = len(regions) * (most + 1) * num_classes
    counts = occurrences(slots * num_classes + predictions, size)
    winners = counts.view(-1, num_classes).argmax(1)
    return torch.where(regions == 0, ignore_index, winners[slots])


def frequency_weighted_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 2.0,
    reduce: Reduce = one_process,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Cross-entropy weighted by how rarely a category is predicted (Hahn et al. 2024, eq. 8, as released).

    With chi_k the mean of the predicted probability of k over all pixels of the batch, ``w_k = (1 - chi_k) ** gamma``;
    the loss is the sum over labelled pixels of ``w_label * -log p_label``, divided by the number of **all** pixels.

    Args:
        logits: (B, K, H, W).
        labels: int64 (B, H, W).
        gamma: 0 = no weights.
        reduce: sums over processes: chi is then that of the batches of all of them.
        ignore_index: label of pixels that do not count, except in the divisor and in chi.

    Returns:
        A scalar; several processes' mean is the loss of all their pixels if they have equally many.
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    with torch.no_grad():
        shares = log_p.exp().sum((0, 2, 3))
        packed = reduce(torch.cat([shares, shares.new_full((1,), float(labels.numel()))]))
        weights = (1 - packed[:-1] / packed[-1]).clamp_min(0) ** gamma
    total = F.nll_loss(log_p, labels, weight=weights, ignore_index=ignore_index, reduction="sum")
    return total / labels.numel()


def teacher_decay(update: int, beta: float = 0.98, warmup: Warmup = "published") -> float:
    """What the teacher keeps of itself at its ``update``-th update (1, 2, ...).

    ``published``: 0 at the first two, then ``min(beta, 1 - 1 / update)``, so that the teacher is a plain average of its
    students until that reaches ``beta``. ``none``: always ``beta``.
    """
    if warmup == "none":
        return beta
    return 0.0 if update <= 2 else min(beta, 1 - 1 / update)
