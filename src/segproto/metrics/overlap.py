"""How far the groups, or the prototypes, of a class look at the same place (Porta et al. 2025, section 4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segproto.metrics.accumulate import Accumulator, mean, scored, share
from segproto.metrics.cells import row_quantiles


def pair_overlap(active: Tensor, weights: Tensor, class_of: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Intersections and unions, summed over all pairs of maps of a class.

    With k maps active at a place it lies in k (k - 1) / 2 intersections, so no pair needs to be looked at.

    Args:
        active: bool (U, N) maps.
        weights: int64 (N,) pixels of each place.
        class_of: int64 (U,) class of each map.
        num_classes: C.

    Returns:
        int64 (C,) intersections, (C,) unions; in pixels.
    """
    size = active.shape[1]
    count = torch.zeros(num_classes, size, dtype=torch.int64).index_add(0, class_of, active.to(torch.int64))
    maps = torch.bincount(class_of, minlength=num_classes)
    intersection = (count * (count - 1) // 2 * weights).sum(1)
    areas = (count * weights).sum(1)
    return intersection, (maps - 1).clamp_min(0) * areas - intersection


class Overlap(Accumulator):
    """IoU of the maps of a class, over all pairs, images and classes shown.

    Args:
        class_of: int64 (U,) class of each group or prototype.
        num_classes: C.
        quantiles: a map is active where it exceeds its quantile over the whole image; published: 0.95.
    """

    def __init__(self, class_of: Tensor, num_classes: int, quantiles: Sequence[float] = (0.95,)) -> None:
        super().__init__()
        self.class_of, self.num_classes, self.quantiles = class_of.cpu(), num_classes, tuple(quantiles)
        shape = (len(quantiles), num_classes)
        self.counts = {name: torch.zeros(shape, dtype=torch.int64) for name in ("intersection", "union")}

    def update(self, maps: Tensor, weights: Tensor, present: Tensor) -> None:
        """Takes one image in.

        Args:
            maps: (U, N) activations of all units.
            weights: int64 (N,) pixels of each place.
            present: bool (C,) classes the image shows; others are left out.
        """
        rows = present.cpu()[self.class_of].nonzero()[:, 0]
        if not len(rows):
            return
        maps, weights = maps[rows].cpu(), weights.cpu()
        limits = row_quantiles(maps, weights, self.quantiles)
        for q, limit in enumerate(limits):
            counts = pair_overlap(maps > limit[:, None], weights, self.class_of[rows], self.num_classes)
            self.counts["intersection"][q] += counts[0]
            self.counts["union"][q] += counts[1]

    def compute(self, keep: Tensor | None = None) -> dict[str, Any]:
        """Micro-average (all classes' pixels pooled) and the mean over classes, both as ``per_quantile``.

        Args:
            keep: bool (C,) classes that count; None = all.
        """
        kept = torch.ones(self.num_classes, dtype=torch.bool) if keep is None else keep.cpu()
        rows = []
        for q, quantile in enumerate(self.quantiles):
            inter, union = (self.counts[name][q] * kept for name in ("intersection", "union"))
            per_class = [share(a, b) for a, b in zip(inter.tolist(), union.tolist(), strict=True)]
            micro = share(int(inter.sum()), int(union.sum()))
            rows.append({"quantile": quantile, "micro": micro, "macro": mean(per_class), "per_class": per_class})
        reason = "no class with two or more maps is shown"
        first: dict[str, Any] = rows[0]
        return scored(first["micro"], reason, macro=first["macro"], per_quantile=rows)
