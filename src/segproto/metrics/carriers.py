"""How few prototypes carry a logit: what a person must look at to see most of one decision."""

from __future__ import annotations

import torch
from torch import Tensor

from segproto.metrics.accumulate import Accumulator


def carriers(shares: Tensor, part: float) -> Tensor:
    """The fewest shares of each row that make up ``part`` of its sum of absolute values: int64 (N,); 0 for zeros alone.

    Args:
        shares: (N, P) contributions to a logit.
        part: between 0 and 1.
    """
    sizes = shares.abs().double().sort(1, descending=True).values
    sums = sizes.cumsum(1)
    missing = sums < part * sums[:, -1:] * (1 - 1e-12)  # rounding asks for no further one
    return torch.where(sums[:, -1] > 0, missing.sum(1) + 1, 0)


class Carriers(Accumulator):
    """The mean number over cells, at several parts of the logit.

    Args:
        parts: of the sum of absolute contributions.
    """

    def __init__(self, parts: tuple[float, ...]) -> None:
        super().__init__()
        self.parts = parts
        self.counts = {
            "carriers": torch.zeros(len(parts), dtype=torch.int64),
            "cells": torch.zeros((), dtype=torch.int64),
        }

    def update(self, shares: Tensor) -> None:
        """Takes the contributions (N, P) to the predicted class at N cells in."""
        for row, part in enumerate(self.parts):
            self.counts["carriers"][row] += carriers(shares, part).sum().cpu()
        self.counts["cells"] += len(shares)

    def means(self) -> list[float | None]:
        """One number a part; None before any cell."""
        cells = int(self.counts["cells"])
        return [count / cells if cells else None for count in self.counts["carriers"].tolist()]
