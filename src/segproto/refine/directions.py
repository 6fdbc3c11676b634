"""The leading principal direction of a changing set of features, from moments that are kept up to date."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

BLOCK = 96  # channels of one product of second moments
SPARE = 1e-14  # below what a float64 shows of a step, above its rounding
STEPS = 32  # size of the Krylov space; at an eigengap of 1.02 the cosine with the true direction is above 0.9999


class Moments:
    """Count, sum and second moments (float64) of the features that are still in a set, an image each.

    Features are taken out as they leave the set, so that all rounds together cost two covariances, not one per round.

    Args:
        features: (B, N, C) float.
    """

    def __init__(self, features: Tensor) -> None:
        self.features = features.double()
        self.shape = features.shape
        self.count = features.new_full((len(features), 1), features.shape[1], dtype=torch.float64)
        self.total = self.features.sum(1)
        self.second = gram(self.features)

    def remove(self, leaving: Tensor) -> None:
        """Takes features out of the set; ``leaving`` is bool (B, N), and none of them has left before."""
        if len(leaving) == 1 and leaving.device.type == "cpu":
            rows = self.features[0][leaving[0]][None]  # a CPU need not multiply by zeros
        else:
            rows = self.features * leaving[..., None]
        self.count = self.count - leaving.sum(1, keepdim=True)
        self.total = self.total - rows.sum(1)
        self.second = self.second - gram(rows)

    def covariance(self) -> Tensor:
        """(B, C, C) scatter matrix about the mean of the set (not divided by the count); zero for an empty set."""
        mean = self.total / self.count.clamp_min(1)
        return self.second - self.total[:, :, None] * mean[:, None, :]


def leading_direction(covariance: Tensor) -> Tensor:
    """The eigenvector of the largest eigenvalue, from a Krylov space of fixed size; its sign is arbitrary.

    The basis is orthonormalised in full and the matrix projected onto it as it is (Rayleigh-Ritz), so that any basis,
    also one that rounding had to complete, gives a valid answer. Nothing depends on values: nothing waits for a device.

    Args:
        covariance: (B, C, C) float64, symmetric, positive semi-definite up to rounding.

    Returns:
        (B, C) float64, unit length; an arbitrary direction where the covariance is zero.
    """
    size = covariance.shape[-1]
    steps = min(STEPS, size)
    scale: Tensor = torch.linalg.vector_norm(covariance, dim=(-2, -1), keepdim=True)
    matrix = covariance / scale.clamp_min(1e-300)
    starts = start_vectors(size, steps).to(matrix.device)
    spare = starts * SPARE  # all that is left of a vector once the space is exhausted
    basis = matrix.new_zeros(len(matrix), steps, size)
    vector = starts[:1].expand(len(matrix), 1, size)
    for step in range(steps):
        for _ in range(2):  # the second time what rounding left of the first is removed
            vector = without(vector, basis[:, :step])
            vector = vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
        basis[:, step] = vector[:, 0]
        vector = torch.baddbmm(spare[(step + 1) % steps].expand_as(vector), vector, matrix)
    _, ritz = torch.linalg.eigh(basis @ matrix @ basis.mT)
    direction: Tensor = (ritz[:, None, :, -1] @ basis)[:, 0]
    length: Tensor = torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
    return direction / length


def without(vector: Tensor, basis: Tensor) -> Tensor:
    """``vector`` (B, 1, C) less its projection onto the orthonormal rows of ``basis`` (B, k, C)."""
    return torch.baddbmm(vector, torch.bmm(vector, basis.mT), basis, alpha=-1)


def gram(rows: Tensor) -> Tensor:
    """``rows.mT @ rows`` of (B, N, C), each pair of channels multiplied once where that saves more than it costs."""
    size = rows.shape[-1]
    if rows.device.type != "cpu" or size < 2 * BLOCK:
        return rows.mT @ rows
    out = rows.new_empty(len(rows), size, size)
    for start in range(0, size, BLOCK):
        end = start + BLOCK
        product = rows[..., start:end].mT @ rows[..., start:]
        out[:, start:end, start:] = product
        out[:, end:, start:end] = product[..., BLOCK:].mT
    return out


@lru_cache(maxsize=8)
def start_vectors(size: int, count: int) -> Tensor:
    """(count, size) fixed vectors in no special direction, float64."""
    return torch.randn(count, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
