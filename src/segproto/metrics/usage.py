"""Which prototypes are used where: coverage of classes, dead and twin prototypes, and their neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segproto.metrics.accumulate import Accumulator, mean, scored, share
from segproto.metrics.cells import Size
from segproto.metrics.consistency import QUANTILES, class_quantiles
from segproto.prototypes.labels import IGNORE_INDEX

TWINS = 1e-6  # squared distance below which two prototypes are one


class Coverage(Accumulator):
    """Share of a class's pixels where at least one of its prototypes exceeds its own quantile within the class.

    Prototypes that all look at the same place cover 1 - q, prototypes that share the class out up to M (1 - q).

    Args:
        class_of: int64 (P,).
        num_classes: C.
        quantiles: Q of them.
        keep: bool (P,) prototypes that count; None = all.
    """

    def __init__(
        self, class_of: Tensor, num_classes: int, quantiles: Sequence[float] = QUANTILES, keep: Tensor | None = None
    ) -> None:
        super().__init__()
        self.class_of, self.num_classes, self.quantiles = class_of.cpu(), num_classes, tuple(quantiles)
        self.keep = torch.ones(len(class_of), dtype=torch.bool) if keep is None else keep.cpu()
        self.counts = {
            "covered": torch.zeros(len(quantiles), num_classes, dtype=torch.int64),
            "pixels": torch.zeros(num_classes, dtype=torch.int64),
        }

    def update(self, activations: Tensor, weights: Tensor, size: Size) -> None:
        """Takes one image in.

        Args:
            activations: (P, N).
            weights: int64 (C, N) pixels of each class in each cell.
            size: (H, W) of the image.
        """
        totals = weights.sum(1)
        rows = (self.keep & (totals[self.class_of] > 0)).nonzero()[:, 0]
        own = self.class_of[rows]
        values, pixels = activations.cpu()[rows], weights[own]
        limits = class_quantiles(values, pixels, size, self.quantiles)
        for q, limit in enumerate(limits):
            active = (values > limit[:, None]) & (pixels > 0)
            anywhere = torch.zeros_like(weights).index_add(0, own, active.long()) > 0
            self.counts["covered"][q] += (weights * anywhere).sum(1)
        with_prototypes = torch.zeros(self.num_classes, dtype=torch.bool)
        with_prototypes[own] = True
        self.counts["pixels"] += totals * with_prototypes

    def compute(self) -> dict[str, Any]:
        """At each quantile: the mean over classes, and each class; the value is the first quantile's."""
        pixels = self.counts["pixels"].tolist()
        rows: list[dict[str, Any]] = []
        for q, quantile in enumerate(self.quantiles):
            per_class = [share(a, b) for a, b in zip(self.counts["covered"][q].tolist(), pixels, strict=True)]
            rows.append({"quantile": quantile, "value": mean(per_class), "per_class": per_class})
        return scored(rows[0]["value"], "no image shows a class that has prototypes", per_quantile=rows)


class Usage(Accumulator):
    """Which prototype is the strongest at each cell, of all and of the cell's own class.

    Args:
        class_of: int64 (P,).
        num_classes: C.
        ks: how many strongest prototypes to look at for :attr:`neighbours`.
        keep: bool (P,) prototypes that count; None = all.
    """

    def __init__(
        self, class_of: Tensor, num_classes: int, ks: Sequence[int] = (1, 3, 5, 10), keep: Tensor | None = None
    ) -> None:
        super().__init__()
        self.class_of, self.num_classes = class_of.cpu(), num_classes
        self.keep = torch.ones(len(class_of), dtype=torch.bool) if keep is None else keep.cpu()
        limit = max(int(self.keep.sum()), 1)
        self.ks = tuple(dict.fromkeys(min(k, limit) for k in ks))
        self.counts = {
            "own": torch.zeros(len(class_of), dtype=torch.int64),
            "nearest": torch.zeros(num_classes, len(class_of), dtype=torch.int64),
            "same": torch.zeros(len(self.ks), dtype=torch.int64),
            "drawn": torch.zeros((), dtype=torch.int64),
        }

    def update(self, activations: Tensor, labels: Tensor, drawn: Tensor) -> None:
        """Takes one image in.

        Args:
            activations: (P, N).
            labels: (N,) labels of the cells, 255 = void.
            drawn: int64 (n,) cells drawn at random for the neighbours; void ones are left out.
        """
        labels = labels.cpu().to(torch.int64)
        values = activations.cpu().masked_fill(~self.keep[:, None], -torch.inf)
        labelled = (labels != IGNORE_INDEX).nonzero()[:, 0]
        self._count_nearest(values[:, labelled], labels[labelled])
        drawn = drawn[labels[drawn] != IGNORE_INDEX]
        if len(drawn) and bool(self.keep.any()):
            best = values[:, drawn].topk(max(self.ks), dim=0).indices
            same = (self.class_of[best] == labels[drawn]).cumsum(0)
            self.counts["same"] += torch.stack([same[k - 1].sum() for k in self.ks])
            self.counts["drawn"] += len(drawn)

    def _count_nearest(self, values: Tensor, labels: Tensor) -> None:
        if not len(labels) or not bool(self.keep.any()):
            return
        count = len(self.class_of)
        self.counts["nearest"] += torch.bincount(
            labels * count + values.argmax(0), minlength=self.num_classes * count
        ).view(self.num_classes, count)
        best, nearest = values.masked_fill(self.class_of[:, None] != labels, -torch.inf).max(0)
        self.counts["own"] += torch.bincount(nearest[torch.isfinite(best)], minlength=count)

    def neighbours(self) -> dict[str, Any]:
        """Share of the k strongest prototypes at a cell that belong to its class, for every k."""
        drawn = int(self.counts["drawn"])
        rows = [
            {"k": k, "value": share(n, k * drawn)} for k, n in zip(self.ks, self.counts["same"].tolist(), strict=True)
        ]
        return scored(rows[0]["value"], "no labelled cell was drawn", per_k=rows)

    def nearest(self) -> dict[str, Any]:
        """Per class: the share of its cells whose strongest prototype is each prototype, and is of the class itself."""
        table = self.counts["nearest"]
        totals = table.sum(1)
        rates = table / totals[:, None].clamp_min(1)
        same = torch.stack([table[c, self.class_of == c].sum() for c in range(self.num_classes)])
        per_class = [share(a, b) for a, b in zip(same.tolist(), totals.tolist(), strict=True)]
        rows = [rates[c].tolist() if totals[c] else None for c in range(self.num_classes)]
        return scored(mean(per_class), "no labelled cell", per_class=per_class, frequencies=rows)

    def usage(self) -> dict[str, Any]:
        """Dead prototypes (never the strongest of their class at a cell of it) and how evenly a class uses its own.

        ``value`` is the share of dead ones among the prototypes of the classes seen.
        """
        own = self.counts["own"]
        appeared = self.counts["nearest"].sum(1) > 0
        counted = self.keep & appeared[self.class_of]
        dead = (counted & (own == 0)).nonzero()[:, 0].tolist()
        members = torch.bincount(self.class_of[counted], minlength=self.num_classes)
        totals = torch.zeros(self.num_classes, dtype=torch.int64).index_add(0, self.class_of, own)
        rates = own.double() / totals[self.class_of].clamp_min(1)
        entropy = torch.zeros(self.num_classes, dtype=torch.float64).index_add(
            0, self.class_of, torch.special.entr(rates)
        )
        per_class: list[float | None] = []
        for e, n, t in zip(entropy, members.tolist(), totals.tolist(), strict=True):
            if not n or not t:
                per_class.append(None)
            else:
                per_class.append(1.0 if n == 1 else float(e / torch.tensor(float(n)).log()))
        return scored(
            share(len(dead), int(counted.sum())),
            "no image shows a class that has prototypes",
            dead=dead,
            entropy=mean(per_class),
            entropy_per_class=per_class,
            cells=own.tolist(),
        )


def prototype_distances(vectors: Tensor, class_of: Tensor, scale_of: Tensor, num_classes: int) -> dict[str, Any]:
    """Distances between prototypes of one class and scale, the only ones that can be compared.

    Args:
        vectors: (P, D).
        class_of: int64 (P,).
        scale_of: int64 (P,).
        num_classes: C.

    Returns:
        ``value`` (mean Euclidean distance over all such pairs), ``minimum``, ``per_class`` means, ``histogram`` (edges
        and counts) and ``duplicates`` (pairs whose squared distance is below 1e-6).
    """
    vectors, class_of, scale_of = vectors.detach().cpu().double(), class_of.cpu(), scale_of.cpu()
    same = (class_of[:, None] == class_of) & (scale_of[:, None] == scale_of)
    first, second = same.triu(1).nonzero(as_tuple=True)
    squares = (vectors[first] - vectors[second]).square().sum(1)
    lengths = squares.sqrt()
    count = torch.bincount(class_of[first], minlength=num_classes).tolist()
    sums = torch.zeros(num_classes, dtype=torch.float64).index_add(0, class_of[first], lengths).tolist()
    twins = squares < TWINS
    counts, edges = np.histogram(lengths.numpy(), bins=10)
    return scored(
        float(lengths.mean()) if len(lengths) else None,
        "no class has two prototypes of one scale",
        minimum=float(lengths.min()) if len(lengths) else None,
        per_class=[share(a, b) for a, b in zip(sums, count, strict=True)],
        histogram={"edges": edges.tolist(), "counts": counts.tolist()} if len(lengths) else None,
        duplicates=torch.stack([first[twins], second[twins]], 1).tolist(),
    )
