"""Prototypes of different scales that see the same thing in images of another size (Porta et al. 2025, section 11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from segproto.metrics.accumulate import Accumulator, share

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Equivariance(Accumulator):
    """IoU of every two prototypes of one class and of different scales, each seeing the image at its own size.

    Args:
        class_of: int64 (P,).
        scale_of: int64 (P,), never decreasing.
        num_classes: C.
        num_scales: S.
    """

    def __init__(self, class_of: Tensor, scale_of: Tensor, num_classes: int, num_scales: int) -> None:
        super().__init__()
        self.class_of, self.scale_of = class_of.cpu(), scale_of.cpu()
        self.num_classes, self.num_scales = num_classes, num_scales
        shape = (len(class_of), len(class_of))
        self.counts = {name: torch.zeros(shape, dtype=torch.int64) for name in ("intersection", "union")}

    def update(self, first: Tensor, second: Tensor, scales: tuple[int, int], weights: Tensor) -> None:
        """Takes in one image and one pair of scales s < t.

        Args:
            first: bool (P_s, N) where the prototypes of scale s are active, within their class.
            second: bool (P_t, N) likewise of scale t.
            scales: (s, t).
            weights: int64 (C, N) pixels of each class at each place.
        """
        rows, columns = ((self.scale_of == s).nonzero()[:, 0] for s in scales)
        a, b = first.cpu().double(), second.cpu().double()  # double: pixel counts stay exact
        pixels = weights.cpu().double()
        own_a, own_b = self.class_of[rows], self.class_of[columns]
        inter = (a * pixels[own_a]) @ b.T
        area_a, area_b = (a * pixels[own_a]).sum(1), (b * pixels[own_b]).sum(1)
        same = own_a[:, None] == own_b
        union = torch.where(same, area_a[:, None] + area_b - inter, 0)
        pairs = (rows[:, None], columns)
        self.counts["intersection"][pairs] += torch.where(same, inter, 0).long()
        self.counts["union"][pairs] += union.long()

    def compute(
        self, thresholds: Sequence[float] = THRESHOLDS, threshold: float = 0.5, examples: int = 5
    ) -> dict[str, Any]:
        """Share of classes with an equivariant pair at every threshold; pairs and merged groups at one of them.

        Returns:
            ``curve`` (threshold, share of classes, pairs), ``value`` (the share at ``threshold``), ``pairs`` (the best:
            prototypes, scales, class, iou), ``groups`` (class to its merged groups, each a list of prototypes) and
            ``initial_groups`` (the same as per-scale lists of within-class-within-scale ids, for a grouping's start).
        """
        union = self.counts["union"]
        iou = self.counts["intersection"] / union.clamp_min(1)
        rows, columns = (union > 0).nonzero(as_tuple=True)
        values = iou[rows, columns]
        classes = self.class_of[rows]
        tested = _distinct(classes)
        curve = []
        for limit in thresholds:
            above = values > limit
            part = share(_distinct(classes[above]), tested)
            curve.append({"threshold": limit, "classes": part, "pairs": int(above.sum())})
        order = values.argsort(descending=True, stable=True)[:examples].tolist()
        pairs = [self._pair(int(rows[i]), int(columns[i]), float(values[i])) for i in order]
        groups = self._merge(rows[values > threshold], columns[values > threshold])
        value, ranks = share(_distinct(classes[values > threshold]), tested), self._ranks()
        return {
            "value": value,
            **({} if tested else {"reason": "no class has prototypes of two scales in the images seen"}),
            "threshold": threshold,
            "curve": curve,
            "pairs": pairs,
            "groups": groups,
            "initial_groups": {c: [self._by_scale(group, ranks) for group in own] for c, own in groups.items()},
        }

    def _pair(self, p: int, q: int, iou: float) -> dict[str, Any]:
        scales = [int(self.scale_of[p]), int(self.scale_of[q])]
        return {"prototypes": [p, q], "scales": scales, "class": int(self.class_of[p]), "iou": iou}

    def _merge(self, rows: Tensor, columns: Tensor) -> dict[int, list[list[int]]]:
        """Pairs that share a prototype become one group."""
        count = len(self.class_of)
        links = coo_matrix((np.ones(len(rows), dtype=bool), (rows.numpy(), columns.numpy())), (count, count))
        label = torch.from_numpy(connected_components(links, directed=False)[1])  # numbered by their first prototype
        used = torch.zeros(count, dtype=torch.bool)
        used[rows] = used[columns] = True
        members = used.nonzero()[:, 0]
        sizes = torch.bincount(label[members])
        merged = torch.split(members[label[members].argsort(stable=True)], sizes[sizes > 0].tolist())
        groups: dict[int, list[list[int]]] = {}
        for group in merged:
            groups.setdefault(int(self.class_of[group[0]]), []).append(group.tolist())
        return groups

    def _ranks(self) -> Tensor:
        """(P,) int64: each prototype's number within its class and scale."""
        kind = self.class_of * self.num_scales + self.scale_of
        order = kind.argsort(stable=True)
        sizes = torch.bincount(kind)
        ranks = torch.empty_like(kind)
        ranks[order] = torch.arange(len(kind)) - (sizes.cumsum(0) - sizes)[kind[order]]
        return ranks

    def _by_scale(self, group: list[int], ranks: Tensor) -> list[list[int]]:
        """Prototypes as their rank within class and scale, one list per scale."""
        own, scale = ranks[group], self.scale_of[group]
        return [own[scale == s].tolist() for s in range(self.num_scales)]


def _distinct(ids: Tensor) -> int:
    """How many different ids >= 0."""
    return int((torch.bincount(ids) > 0).sum())
