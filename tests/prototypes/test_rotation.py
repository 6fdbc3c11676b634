"""Rotations and factors: orthogonality, the gradient, and sources that were mixed and are found again."""

from __future__ import annotations

import math
from statistics import stdev

import pytest
import torch
from torch import Tensor

from segproto.prototypes.factors import codes, factorise, two_signs
from segproto.prototypes.rotation import (
    Observed,
    TermWeights,
    answered_weights,
    learn_rotation,
    nearest_orthogonal,
    neighbour_differences,
    noise_fraction,
    principal_axes,
    random_rotation,
    rotation_objective,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sparse_sources(count: int, dim: int) -> Tensor:
    """Sources of which about two fire in a row."""
    fires = torch.rand(count, dim, generator=generator()) < 2 / dim
    return fires * torch.randn(count, dim, generator=generator(1))


def eye_error(rotation: Tensor) -> float:
    return float((rotation.double() @ rotation.double().T - torch.eye(len(rotation))).abs().max())


def observed(
    cells: Tensor, differences: Tensor | None = None, weights: Tensor | None = None, changes: Tensor | None = None
) -> Observed:
    changes = torch.ones_like(cells) if changes is None else changes
    return Observed(
        cells,
        torch.ones_like(cells) if weights is None else weights,
        cells[1:] - cells[:-1] if differences is None else differences,
        torch.cov(cells.T),
        changes.T @ changes / len(changes),
    )


def learn(
    seen: Observed, coherence: float = 0.0, evidence: float = 0.0, steadiness: float = 0.0, steps: int = 300
) -> Tensor:
    terms = TermWeights(coherence, evidence, steadiness)
    return learn_rotation(seen, terms, steps=steps, lr=0.05, batch=1024, generator=generator())


def test_the_objective_is_that_of_plain_loops() -> None:
    cells, weights, differences, changes = (torch.randn(n, 3, generator=generator(n)).double() for n in (7, 7, 5, 6))
    rotation = random_rotation(3, generator()).double()

    def turned(rows: Tensor) -> list[list[float]]:
        return [[sum(float(u) * float(x) for u, x in zip(r, row, strict=True)) for r in rotation] for row in rows]

    def even(numbers: list[float]) -> float:
        return sum(map(abs, numbers)) / math.sqrt(len(numbers) * sum(x * x for x in numbers))

    z, d, w = turned(cells), turned(differences), turned(weights)
    places = sum(even([row[k] for row in z]) for k in range(3)) / 3
    borders = sum(even([row[k] for row in d]) for k in range(3)) / 3
    shares = sum(even([a * b for a, b in zip(r, s, strict=True)]) for r, s in zip(z, w, strict=True)) / 7
    moved = [math.sqrt(sum(row[k] ** 2 for row in turned(changes)) / 6) for k in range(3)]
    noise = sum(m / stdev(row[k] for row in z) for k, m in enumerate(moved)) / 3
    seen = observed(cells, differences, weights, changes)
    found = rotation_objective(rotation, seen, TermWeights(0.7, 0.4, 0.3))
    assert float(found) == pytest.approx(places + 0.7 * borders + 0.4 * shares + 0.3 * noise, rel=1e-9)


def test_the_gradient_is_that_of_small_steps() -> None:
    seen = observed(*(torch.randn(20, 4, generator=generator(s), dtype=torch.float64) for s in range(4)))
    rotation = random_rotation(4, generator()).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda u: rotation_objective(u, seen, TermWeights(0.5, 0.5, 0.5)), (rotation,))


def test_channels_that_are_always_0_give_a_gradient() -> None:
    cells = torch.randn(20, 4)
    cells[:, 2] = 0
    rotation = torch.eye(4, requires_grad=True)
    rotation_objective(rotation, observed(cells, changes=cells), TermWeights(1.0, 1.0, 1.0)).backward()
    assert bool(torch.isfinite(rotation.grad).all())


def test_rotations_are_orthogonal() -> None:
    cells = sparse_sources(500, 12) @ random_rotation(12, generator(3))
    learned = learn(observed(cells), 0.5, 0.5, 0.5, steps=20)
    for rotation in (learned, random_rotation(12, generator()), principal_axes(cells)):
        assert eye_error(rotation) < 1e-5
    assert eye_error(nearest_orthogonal(random_rotation(12, generator()) + 1e-3)) < 1e-6
    assert not torch.equal(random_rotation(12, generator(0)), random_rotation(12, generator(1)))


def test_sparse_sources_are_found_behind_a_rotation() -> None:
    """Each learned channel is one of them, up to its sign; no channel of the mixture is."""
    sources, mixing = sparse_sources(3000, 8), random_rotation(8, generator(5))
    learned = learn(observed(sources @ mixing))
    assert float(mixing.abs().amax(1).max()) < 0.9
    overlap = (learned @ mixing.T).abs()
    assert bool((overlap.amax(0) > 0.98).all())
    assert sorted(overlap.argmax(1).tolist()) == list(range(8))


def test_regions_are_found_by_their_borders() -> None:
    """Of two overlapping halves, cells alone prefer their corners; what changes from cell to cell tells the halves."""
    half = (torch.arange(16) // 8 * 2.0 - 1).expand(16, 16)
    angle = torch.tensor(0.6)
    mixing = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
    features = torch.einsum("dk,khw->dhw", mixing, torch.stack([half, half.T]))
    seen = observed(features.flatten(1).T, neighbour_differences(features))

    def halves(coherence: float) -> float:
        return float((learn(seen, coherence) @ mixing).abs().amax(1).min())

    assert halves(20.0) > 0.99
    assert halves(0.0) < 0.8


def test_a_logit_comes_to_be_carried_by_one_channel() -> None:
    cells, weight = torch.randn(400, 6, generator=generator()), torch.randn(1, 6, generator=generator(1))
    learned = learn(observed(cells, weights=weight.expand(400, 6)), evidence=20.0)
    shares = (cells * weight) @ torch.ones(6)
    turned = (cells @ learned.T) * (weight @ learned.T)
    assert torch.allclose(turned.sum(1), shares, atol=1e-4)
    assert float((turned.abs().amax(1) / turned.abs().sum(1)).mean()) > 0.9


def test_what_noise_moves_is_kept_out_of_the_other_channels() -> None:
    """Noise along one direction of the features: it gets a channel of its own, and the others keep still."""
    cells, direction = torch.randn(2000, 5, generator=generator()), random_rotation(5, generator(2))[0]
    changes = torch.randn(500, 1, generator=generator(1)) * direction
    seen = observed(cells, changes=changes)
    learned = learn(seen, steadiness=20.0)
    assert float((learned @ direction).abs().max()) > 0.99
    assert float(noise_fraction(learned, seen.unrest, seen.variance)) < 0.3
    assert float(noise_fraction(random_rotation(5, generator(4)), seen.unrest, seen.variance)) > 0.35


def test_the_weights_are_those_of_the_answered_class() -> None:
    weight, bias = torch.randn(3, 4), torch.randn(3)
    cells = torch.randn(5, 4)
    found = answered_weights(cells, weight, bias)
    for row, cell in zip(found, cells, strict=True):
        scores = [float(weight[c] @ cell + bias[c]) for c in range(3)]
        assert torch.allclose(row, weight[scores.index(max(scores))] - weight.mean(0))


def test_differences_are_those_of_neighbours() -> None:
    features = torch.arange(12.0).view(1, 3, 4)
    assert sorted(neighbour_differences(features)[:, 0].tolist()) == [1.0] * 9 + [4.0] * 8


def test_principal_axes_are_those_of_a_singular_value_decomposition() -> None:
    cells = torch.randn(200, 5, generator=generator()) * torch.tensor([5.0, 3, 2, 1, 0.5])
    axes = torch.linalg.svd(cells.double(), full_matrices=False)[2]
    assert torch.allclose((principal_axes(cells).double() @ axes.T).abs(), torch.eye(5).double(), atol=1e-4)


def test_factors_bring_the_residual_down_and_stay_positive() -> None:
    cells = torch.rand(200, 3, generator=generator()) @ torch.rand(3, 10, generator=generator(1))
    factors = factorise(cells, 3, 300, generator())
    found = codes(cells, factors, 300)
    assert bool((factors >= 0).all() and (found >= 0).all())
    assert torch.allclose(factors.norm(dim=1), torch.ones(3), atol=1e-5)
    error = float((found @ factors - cells).norm() / cells.norm())
    assert error < 0.02
    assert error < float((codes(cells, factors, 1) @ factors - cells).norm() / cells.norm())


def test_two_signs_give_back_the_features() -> None:
    features = torch.randn(6, 4)
    positive, negative = two_signs(features).chunk(2, 1)
    assert torch.equal(positive - negative, features)
    assert bool((two_signs(features) >= 0).all())
