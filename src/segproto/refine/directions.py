"""The leading principal direction of a changing set of features, from moments that are kept up to date."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

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
        self.second = self.features.mT @ self.features

    def remove(self, leaving: Tensor) -> None:
        """Takes features out of the set; ``leaving`` is bool (B, N), and none of them has left before."""
        if len(leaving) == 1 and leaving.device.type == "cpu":
            rows = self.features[0][leaving[0]][None]  # a CPU need not multiply by zeros
        else:
            rows = self.features * leaving[..., None]
        self.count = self.count - leaving.sum(1, keepdim=True)
        self.total = self.total - rows.sum(1)
        self.second = self.second - rows.mT @ rows

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
    scale = covariance.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(1e-300)[:, None, None]
    matrix = covariance / scale
    basis = matrix.new_zeros(len(matrix), steps, size)
    images = torch.zeros_like(basis)
    vector = start_vectors(size, steps).to(matrix.device)
    current = vector[0].expand(len(matrix), -1)
    for step in range(steps):
        current = orthonormal(current, basis[:, :step], vector[step])
        basis[:, step] = current
        current = (matrix @ current[..., None])[..., 0]
        images[:, step] = current
    _, ritz = torch.linalg.eigh(basis @ images.mT)
    direction: Tensor = (ritz[:, None, :, -1] @ basis)[:, 0]
    length: Tensor = torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
    return direction / length


def orthonormal(vector: Tensor, basis: Tensor, spare: Tensor) -> Tensor:
    """``vector`` (B, C) made orthogonal to the rows of ``basis`` (B, k, C), unit length.

    Where nothing but rounding is left of it (the space is exhausted), ``spare`` (C,) takes its place.
    """
    before = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    remainder = without(vector, basis)
    vector = torch.where(torch.linalg.vector_norm(remainder, dim=-1, keepdim=True) > 1e-12 * before, remainder, spare)
    for _ in range(2):
        vector = without(vector, basis)
        vector = vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    return vector


def without(vector: Tensor, basis: Tensor) -> Tensor:
    """``vector`` (B, C) less its projection onto the orthonormal rows of ``basis`` (B, k, C)."""
    components = basis @ vector[..., None]
    return vector - (components.mT @ basis)[:, 0]


@lru_cache(maxsize=8)
def start_vectors(size: int, count: int) -> Tensor:
    """(count, size) fixed vectors in no special direction, float64."""
    return torch.randn(count, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
