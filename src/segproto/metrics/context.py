"""How much of what a class is recognised by lies around it, summed over images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segproto.metrics.accumulate import Accumulator, mean, scored, share


class Context(Accumulator):
    """Sums what the probability of each class owes to its surroundings, and to the thing itself.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.rows = {"owed": []}

    def update(self, owed: Tensor, class_id: int, index: int) -> None:
        """Takes one class of one image in.

        Args:
            owed: (2,) at least 0: owed to the surroundings, and to the thing; zeros if the class is not recognised.
            class_id: the class.
            index: of the image.
        """
        self.rows["owed"].append(torch.cat([torch.tensor([index, class_id], dtype=torch.float64), owed.double()])[None])

    def compute(self) -> dict[str, Any]:
        """Per class the share owed to the surroundings; the value is the mean over classes.

        ``lost`` is the mean probability that the surroundings, and the thing, account for: where both are small, the
        share says little. ``images`` are those of each class in which it is recognised, of ``looked_at``.
        """
        table = self.table("owed").reshape(-1, 4)
        per_class: list[float | None] = []
        lost: list[list[float] | None] = []
        counts: dict[str, list[int]] = {"images": [], "looked_at": []}
        for c in range(self.num_classes):
            own = table[table[:, 1] == c, 2:]
            around, thing = own.sum(0).tolist()
            per_class.append(share(around, around + thing))
            lost.append(own.mean(0).tolist() if len(own) else None)
            counts["images"].append(int((own.sum(1) > 0).sum()))
            counts["looked_at"].append(len(own))
        return scored(mean(per_class), "no class is recognised in an image", per_class=per_class, lost=lost, **counts)
