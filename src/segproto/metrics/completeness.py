"""Whether contributions add up to the logit they explain (docs/design.md, Heads)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segproto.metrics.accumulate import Accumulator, scored

LIMIT = 1e-4


def completeness_error(contributions: Tensor, offset: Tensor, logits: Tensor) -> Tensor:
    """``|sum + offset - logit| / max(|logit|, sum |contribution|)`` of N logits.

    Args:
        contributions: (N, P).
        offset: (N,).
        logits: (N,).

    Returns:
        float64 (N,); 0 where everything is 0.
    """
    shares, logits = contributions.double(), logits.double()
    error = (shares.sum(1) + offset.double() - logits).abs()
    scale = torch.maximum(logits.abs(), shares.abs().sum(1))
    return torch.where(scale > 0, error / scale.clamp_min(torch.finfo(torch.float64).tiny), error)


class Completeness(Accumulator):
    """The largest and the mean error over all logits of all images."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = {name: torch.zeros((), dtype=torch.int64) for name in ("logits", "above")}
        self.rows = {"errors": []}

    def update(self, errors: Tensor, image: int) -> None:
        """Takes in the errors (any shape) of one image."""
        flat = errors.flatten().double().cpu()
        if flat.numel():
            self.counts["logits"] += flat.numel()
            self.counts["above"] += (~(flat <= LIMIT)).sum()
            self.rows["errors"].append(torch.stack([torch.tensor(float(image)).double(), flat.max(), flat.sum()])[None])

    def compute(self) -> dict[str, Any]:
        """``value`` (largest error), ``mean``, ``logits`` and how many of them are ``above`` 1e-4."""
        table, count = self.table("errors"), int(self.counts["logits"])
        return scored(
            float(table[:, 1].max()) if count else None,
            "no image",
            mean=float(table[:, 2].sum()) / count if count else None,
            limit=LIMIT,
            logits=count,
            above=int(self.counts["above"]),
        )
