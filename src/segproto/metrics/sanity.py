"""How far explanations move when the model is randomised layer by layer (Adebayo et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segproto.metrics.accumulate import Accumulator

FIGURES = ("map_correlation", "prototype_correlation", "same_winner")


def spearman(first: Tensor, second: Tensor) -> float:
    """Rank correlation of two samples (N,); 0 where one of them is constant."""
    from scipy.stats import rankdata  # takes a second to import

    a, b = (torch.from_numpy(rankdata(v.double().cpu().numpy())) for v in (first, second))
    a, b = a - a.mean(), b - b.mean()
    scale = (a.square().sum() * b.square().sum()).sqrt()
    return float((a * b).sum() / scale) if scale > 0 else 0.0


def compare_explanations(before: Tensor, after: Tensor) -> tuple[float, float, float]:
    """Likeness of two explanations of the same cells.

    Args:
        before: (N, P) contributions to one class's logit at N cells.
        after: the same of the randomised model.

    Returns:
        Rank correlation of the evidence over cells, of the prototypes' mean contributions, and the share of cells with
        the same strongest prototype.
    """
    maps = spearman(before.sum(1), after.sum(1))
    prototypes = spearman(before.mean(0), after.mean(0))
    return maps, prototypes, float((before.argmax(1) == after.argmax(1)).double().mean())


def permuted(value: Tensor, generator: torch.Generator) -> Tensor:
    """The entries of a tensor in random order: same distribution, nothing learned."""
    order = torch.randperm(value.numel(), generator=generator).to(value.device)
    return value.flatten()[order].view(value.shape)


class Sanity(Accumulator):
    """Mean likeness after each step of the cascade.

    Args:
        steps: names of what is randomised, cumulatively.
    """

    def __init__(self, steps: Sequence[str]) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.rows = {"likeness": []}

    def update(self, likeness: Tensor, image: int) -> None:
        """Takes in one image: (steps, 3), see :func:`compare_explanations`."""
        row = torch.cat([torch.tensor([float(image)]).double(), likeness.double().flatten()])
        self.rows["likeness"].append(row[None])

    def compute(self) -> dict[str, Any]:
        """All ``steps``; ``value``: rank correlation of the maps with everything randomised (near 0 is sane)."""
        table = self.table("likeness")
        if not len(table):
            return {"value": None, "reason": "no image shows a class large enough", "steps": []}
        means = table.mean(0)[1:].view(len(self.steps), len(FIGURES)).tolist()
        steps = [
            {"randomised": name, **dict(zip(FIGURES, row, strict=True))}
            for name, row in zip(self.steps, means, strict=True)
        ]
        return {"value": steps[-1]["map_correlation"], "images": len(table), "steps": steps}
