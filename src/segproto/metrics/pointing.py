"""The pointing game: does a prototype's strongest activation lie in its class? (after Zhang et al. 2018)"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.metrics.accumulate import Accumulator, mean, scored, share
from segproto.prototypes.labels import IGNORE_INDEX


def boundary_band(labels: Tensor, width: int = 1) -> Tensor:
    """Cells within ``width`` cells (in eight directions) of a cell of another class: int (h, w), 255 = void, to bool.

    Void is no class: a border with void is none.
    """
    labelled = labels != IGNORE_INDEX
    values = labels.float()
    high = torch.where(labelled, values, -torch.inf)[None, None]
    low = torch.where(labelled, values, torch.inf)[None, None]
    size = 2 * width + 1
    largest = F.max_pool2d(high, size, 1, width)[0, 0]
    smallest = -F.max_pool2d(-low, size, 1, width)[0, 0]
    return labelled & ((largest != values) | (smallest != values))


class Pointing(Accumulator):
    """Where the strongest cell of each prototype lies in the images that show its class.

    Args:
        class_of: int64 (P,).
        num_classes: C.
        band: width of the boundary band in cells.
    """

    def __init__(self, class_of: Tensor, num_classes: int, band: int = 1) -> None:
        super().__init__()
        self.class_of, self.num_classes, self.band = class_of.cpu(), num_classes, band
        shape = (len(class_of), num_classes)
        self.counts = {name: torch.zeros(shape, dtype=torch.int64) for name in ("anywhere", "boundary")}

    def update(self, activations: Tensor, labels: Tensor) -> None:
        """Takes one image in.

        Args:
            activations: (P, h, w).
            labels: (h, w) labels of the cells, 255 = void; such cells are not looked at.
        """
        labels = labels.cpu().to(torch.int64)
        flat = activations.cpu().flatten(1)
        labelled = labels != IGNORE_INDEX
        for name, where in (("anywhere", labelled), ("boundary", boundary_band(labels, self.band))):
            present = torch.zeros(IGNORE_INDEX + 1, dtype=torch.bool)
            present[labels[where]] = True
            rows = present[self.class_of].nonzero()[:, 0]
            if len(rows):
                cell = flat[rows].masked_fill(~where.flatten(), -torch.inf).argmax(1)
                self.counts[name][rows, labels.flatten()[cell]] += 1

    def compute(self, keep: Tensor | None = None, pairs: int = 5) -> dict[str, Any]:
        """Share of hits: of all (image, prototype), per class, on boundary bands, and the classes hit by mistake.

        Args:
            keep: bool (P,) prototypes that count; None = all.
            pairs: how many confused pairs to list.
        """
        kept = torch.ones_like(self.class_of, dtype=torch.bool) if keep is None else keep.cpu()
        tables = {
            name: torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64).index_add(
                0, self.class_of[kept], count[kept]
            )
            for name, count in self.counts.items()
        }
        table = tables["anywhere"]
        hits, totals = table.diagonal().tolist(), table.sum(1).tolist()
        per_class = [share(a, b) for a, b in zip(hits, totals, strict=True)]
        border = tables["boundary"]
        missed = table.clone().fill_diagonal_(0)
        order = missed.flatten().argsort(descending=True, stable=True)[:pairs].tolist()
        class_pairs = [divmod(i, self.num_classes) for i in order]
        confused = [
            {"class": a, "found": b, "count": int(missed[a, b]), "share": share(int(missed[a, b]), totals[a])}
            for a, b in class_pairs
            if missed[a, b]
        ]
        return scored(
            share(sum(hits), sum(totals)),
            "no image shows a class that has prototypes",
            macro=mean(per_class),
            per_class=per_class,
            boundary=share(int(border.diagonal().sum()), int(border.sum())),
            confused=confused,
            per_prototype=_diagonal_share(self.counts["anywhere"], self.class_of, kept),
        )


def _diagonal_share(counts: Tensor, class_of: Tensor, kept: Tensor) -> list[float | None]:
    own = counts.gather(1, class_of[:, None])[:, 0].tolist()
    rows = zip(own, counts.sum(1).tolist(), kept.tolist(), strict=True)
    return [share(a, b) if keep else None for a, b, keep in rows]
