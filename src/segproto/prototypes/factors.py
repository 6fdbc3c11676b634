"""Non-negative matrix factorisation by multiplicative updates (Lee & Seung, NIPS 2000): ``X ~ A H``, all >= 0."""

from __future__ import annotations

import torch
from torch import Tensor

SMALL = 1e-12


def two_signs(features: Tensor) -> Tensor:
    """Features (N, D) of any sign to (N, 2D) >= 0: what is positive, then what is negative."""
    return torch.cat([features.clamp_min(0), (-features).clamp_min(0)], 1)


def codes(cells: Tensor, factors: Tensor, steps: int) -> Tensor:
    """How much of each factor is in each cell: A (N, K) >= 0, by so many updates from an even start.

    Args:
        cells: X (N, E) >= 0.
        factors: H (K, E) >= 0.
        steps: each brings ``|X - A H|`` down.
    """
    products, gram = cells @ factors.T, factors @ factors.T
    code = products / gram.sum(1).clamp_min(SMALL)
    for _ in range(steps):
        code = code * products / (code @ gram).clamp_min(SMALL)
    return code


def factorise(cells: Tensor, count: int, steps: int, generator: torch.Generator) -> Tensor:
    """H (count, E), rows of unit length, from random cells.

    Args:
        cells: X (N, E) >= 0.
        count: K.
        steps: updates of both factors.
        generator: of the draws, on the CPU.
    """
    factors = cells[torch.randint(len(cells), (count,), generator=generator)] + cells.mean() * 0.1
    code = codes(cells, factors, 1)
    for _ in range(steps):
        code = code * (cells @ factors.T) / (code @ (factors @ factors.T)).clamp_min(SMALL)
        factors = factors * (code.T @ cells) / ((code.T @ code) @ factors).clamp_min(SMALL)
    return torch.nn.functional.normalize(factors, dim=1, eps=SMALL)
