"""Figures that tell whether the prototypes of a class still differ and are used."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

COLLAPSED = 0.98  # mean pairwise cosine above which the prototypes of a class count as one


class ClusterHealth(NamedTuple):
    """One row per class.

    Attributes:
        mean_cosine: (C,) mean cosine over the pairs of the class's prototypes, -1..1; 1 for K = 1.
        usage: (C, K) share of the class's pixels that each prototype got; 0 for a class without pixels.
        entropy: (C,) ``-sum usage ln(usage) / ln(K)``, 0 (one takes all) to 1 (evenly), 1 for K = 1; NaN without
            pixels.
        collapsed: bool (C,), ``mean_cosine`` above the limit; never for K = 1.
    """

    mean_cosine: Tensor
    usage: Tensor
    entropy: Tensor
    collapsed: Tensor


@torch.no_grad()
def cluster_health(prototypes: Tensor, counts: Tensor, *, limit: float = COLLAPSED) -> ClusterHealth:
    """Health of every class's prototypes.

    Args:
        prototypes: (C, K, D), any length.
        counts: (C, K) pixels each prototype got, added up over batches (and processes).
        limit: mean pairwise cosine that counts as collapse.
    """
    per_class = prototypes.shape[1]
    rows = F.normalize(prototypes, dim=-1)
    if per_class == 1:
        mean = rows.new_ones(len(rows))
    else:
        square = rows.sum(1).square().sum(-1)  # the sum of all K*K cosines
        mean = (square - rows.square().sum((1, 2))) / (per_class * (per_class - 1))
    total = counts.sum(1, keepdim=True)
    usage = counts / total.clamp_min(1)
    entropy = torch.special.entr(usage).sum(1) / torch.tensor(float(max(per_class, 2))).log()
    if per_class == 1:
        entropy = torch.ones_like(entropy)
    return ClusterHealth(
        mean, usage, entropy.masked_fill(total[:, 0] == 0, torch.nan), (mean > limit) & (per_class > 1)
    )


@torch.no_grad()
def dead_prototypes(
    prototypes: Tensor, counts: Tensor, *, min_share: float = 0.0, twin_cosine: float = COLLAPSED
) -> Tensor:
    """Prototypes to seed anew: those hardly used, and all but the first of a set of twins.

    Args:
        prototypes: (C, K, D), any length.
        counts: (C, K) pixels each prototype got since the last look.
        min_share: dead at or below this share of an even part, 1/K of the class's pixels; 0 = never used.
        twin_cosine: a prototype whose cosine with an earlier one of its class exceeds this is a twin.

    Returns:
        bool (C, K); never for classes without pixels, of which nothing is known.
    """
    per_class = prototypes.shape[1]
    total = counts.sum(1, keepdim=True)
    idle = counts * per_class <= min_share * total
    rows = F.normalize(prototypes, dim=-1)
    twin = ((rows @ rows.transpose(1, 2)).tril(-1) > twin_cosine).any(2)
    return (idle | twin) & (total > 0)
