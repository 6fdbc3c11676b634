"""Whether the places a prototype is most active at are one and the same part (Nauta et al. 2023, purity)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from segproto.metrics.accumulate import mean, scored


def cell_parts(parts: Tensor, mask: Tensor, cells: Tensor, num_cells: int, num_parts: int, classes: Tensor) -> Tensor:
    """The part that most pixels of each cell show, for each of some classes: int64 (len(classes), N), 0 = none.

    Args:
        parts: int64 (H, W), 0 = none.
        mask: (H, W) classes.
        cells: int64 (H, W), see :func:`segproto.metrics.cells.pixel_cells`.
        num_cells: N.
        num_parts: K, ids 0..K-1.
        classes: int64 (n,) those asked for.
    """
    row_of = torch.full((max(256, 1 + int(mask.max())),), len(classes), dtype=torch.int64)
    row_of[classes] = torch.arange(len(classes))
    keys = (row_of[mask.to(torch.int64)] * num_cells + cells) * num_parts + parts
    counts = torch.bincount(keys.flatten(), minlength=(len(classes) + 1) * num_cells * num_parts)
    counts = counts.view(-1, num_cells, num_parts)[:-1, :, 1:]
    if not counts.shape[2]:
        return torch.zeros(counts.shape[:2], dtype=torch.int64)
    best, part = counts.max(2)
    return torch.where(best > 0, part + 1, 0)


class Purity:
    """Of a prototype's k strongest images of its class: how many show the most frequent part at the strongest cell.

    Ties go to the smaller image index, so any split of the images gives the same.

    Args:
        class_of: int64 (P,).
        num_parts: K.
        k: images per prototype.
    """

    def __init__(self, class_of: Tensor, num_parts: int, k: int = 10) -> None:
        self.class_of, self.num_parts, self.k = class_of.cpu(), num_parts, k
        shape = (len(class_of), k)
        self.value = torch.full(shape, -torch.inf, dtype=torch.float64)
        self.image = torch.full(shape, 2**62, dtype=torch.int64)
        self.part = torch.zeros(shape, dtype=torch.int64)

    def update(self, activations: Tensor, parts: Tensor, classes: Tensor, image: int) -> None:
        """Takes one image in.

        Args:
            activations: (P, N).
            parts: int64 (n, N) of :func:`cell_parts`.
            classes: int64 (n,) the classes of its rows: those that have parts and that the image shows.
            image: its index.
        """
        row_of = torch.full((int(self.class_of.max()) + 1 if len(self.class_of) else 0,), -1, dtype=torch.int64)
        with_prototypes = classes < len(row_of)
        row_of[classes[with_prototypes]] = with_prototypes.nonzero()[:, 0]
        rows = (row_of[self.class_of] >= 0).nonzero()[:, 0]
        value, cell = activations[rows].cpu().double().max(1)
        fresh = {
            "value": torch.full((len(self.class_of), 1), -torch.inf, dtype=torch.float64),
            "image": torch.full((len(self.class_of), 1), image),
            "part": torch.zeros(len(self.class_of), 1, dtype=torch.int64),
        }
        fresh["value"][rows, 0] = value
        fresh["part"][rows, 0] = parts[row_of[self.class_of[rows]], cell]
        self.merge(fresh)

    def state_dict(self) -> dict[str, Tensor]:
        """All there is, to be sent to another process."""
        return {"value": self.value, "image": self.image, "part": self.part}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Takes in the ``state_dict`` of another process, which saw other images."""
        value, image, part = (torch.cat([getattr(self, k), state[k]], 1) for k in ("value", "image", "part"))
        order = image.argsort(dim=1, stable=True)
        order = order.gather(1, value.gather(1, order).argsort(dim=1, descending=True, stable=True))[:, : self.k]
        self.value, self.image, self.part = (v.gather(1, order) for v in (value, image, part))

    def compute(self, keep: Tensor | None = None) -> dict[str, Any]:
        """Mean purity over the prototypes seen, and the purity and part of each.

        Args:
            keep: bool (P,) prototypes that count; None = all.
        """
        filled = torch.isfinite(self.value)
        seen = filled.any(1) & (torch.ones_like(self.class_of, dtype=torch.bool) if keep is None else keep.cpu())
        counts = torch.zeros(len(self.class_of), self.num_parts, dtype=torch.int64)
        counts.scatter_add_(1, self.part, filled.long())
        best = part = counts.new_zeros(len(counts))
        if self.num_parts > 1:
            best, part = counts[:, 1:].max(1)
        purity = [int(b) / int(n) if s else None for b, n, s in zip(best, filled.sum(1), seen, strict=True)]
        parts = [int(p) + 1 if s and int(b) else None for p, b, s in zip(part, best, seen, strict=True)]
        reason = "no image shows a part of a class that has prototypes"
        return scored(mean(purity), reason, k=self.k, per_prototype=purity, part=parts)
