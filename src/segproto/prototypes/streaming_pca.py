"""Principal components of more features than memory holds, from their first and second moments."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class StreamingPca:
    """Sums up count, sum and second moments in float64: exact for any number of features, in any order of batches.

    Args:
        dim: C, channels.
        device: where features are.

    Attributes:
        moments: float64 (C + 1, C + 1): second moments of features with a constant 1 beside them; sums over processes.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.moments = torch.zeros(dim + 1, dim + 1, dtype=torch.float64, device=device)

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Takes features (N, C) in."""
        rows = torch.cat([features, features.new_ones(len(features), 1)], 1).double()
        self.moments += rows.T @ rows

    def components(self, count: int, reduce: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The first ``count`` principal directions.

        Args:
            count: K, at most C.
            reduce: sum over processes.

        Returns:
            float32 (K, C) unit rows, largest variance first; each has its largest absolute entry positive.

        Raises:
            ValueError: no feature was taken in, or more directions than channels are asked for.
        """
        total = self.moments if reduce is None else reduce(self.moments)
        number, dim = total[-1, -1], len(total) - 1
        if not bool(number > 0) or not 1 <= count <= dim:
            raise ValueError(f"{count} components of {int(number)} features with {dim} channels cannot be had")
        mean = total[-1, :-1] / number
        covariance = total[:-1, :-1] / number - torch.outer(mean, mean)
        directions = torch.linalg.eigh(covariance)[1].flip(1)[:, :count].T
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        signed: Tensor = directions * torch.where(largest < 0, -1.0, 1.0)
        return signed.float()
