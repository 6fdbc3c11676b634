"""Groups that begin at a readout: clusters of prototypes that fire together; the fit against a naive loop."""

from __future__ import annotations

import math

import pytest
import torch

from segproto.prototypes.group_start import LEAST, group_coactivating_
from segproto.prototypes.grouping import Grouping
from segproto.prototypes.readout import distilled_readout, fitted_readout


def test_the_fit_minimises_the_penalised_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    units = torch.rand(200, 5, generator=generator).double() * 4 + 1
    units[:2, 0] = 1e4  # a prototype's own patch
    logits = torch.randn(200, 3, generator=generator).double()
    ridge = 0.01
    weight = fitted_readout(units, logits, ridge)

    def cost(candidate: torch.Tensor) -> float:
        most = [sorted(column)[197] for column in units.T.tolist()]  # the 198th of 200
        total, cut = 0.0, [[min(x, m) for x, m in zip(row, most, strict=True)] for row in units.tolist()]
        squares = sum(x * x for row in cut for x in row) / 5
        for n in range(200):
            centre = sum(float(z) for z in logits[n]) / 3
            for c in range(3):
                fitted = sum(float(candidate[c, u]) * cut[n][u] for u in range(5))
                total += (fitted - (float(logits[n, c]) - centre)) ** 2
        return total + ridge * squares * float((candidate**2).sum())

    best = cost(weight)
    for _ in range(20):
        assert cost(weight + 1e-3 * torch.randn(3, 5, generator=generator)) > best
    torch.testing.assert_close(fitted_readout(units, logits + 7, ridge), weight)  # no softmax sees a cell's constant


def test_an_exact_readout_is_found() -> None:
    generator = torch.Generator().manual_seed(1)
    units = 1 + torch.rand(200, 6, generator=generator)
    weight = torch.randn(4, 6, generator=generator)
    weight = weight - weight.mean(0)
    fitted = fitted_readout(units, units @ weight.T, 1e-9)
    torch.testing.assert_close(fitted, weight, rtol=0.05, atol=0.05)  # the largest values are cut


def test_no_other_readout_comes_closer_in_probability() -> None:
    generator = torch.Generator().manual_seed(3)
    units, logits = torch.rand(60, 4, generator=generator), 3 * torch.randn(60, 3, generator=generator)
    weight = distilled_readout(units, logits, torch.zeros(3, 4)).tolist()
    gradient = [[0.0] * 4 for _ in range(3)]  # of the mean divergence, which is convex: zero at its least
    for row, wanted in zip(units.tolist(), logits.tolist(), strict=True):
        scores = [sum(w * x for w, x in zip(line, row, strict=True)) for line in weight]
        given, goal = ([math.exp(z) / sum(map(math.exp, values)) for z in values] for values in (scores, wanted))
        for c in range(3):
            for u in range(4):
                gradient[c][u] += (given[c] - goal[c]) * row[u] / 60
    assert max(abs(g) for line in gradient for g in line) < 1e-4


def test_a_readout_of_the_same_probabilities_is_left_alone() -> None:
    generator = torch.Generator().manual_seed(4)
    units, weight = torch.rand(50, 4, generator=generator), torch.randn(3, 4, generator=generator)
    torch.testing.assert_close(distilled_readout(units, units @ weight.T, weight), weight, rtol=1e-4, atol=1e-4)


def test_prototypes_that_fire_together_share_a_group() -> None:
    generator = torch.Generator().manual_seed(2)
    class_of = torch.tensor([0, 0, 2, 0, 0, 0, 0, 2])  # class 1 has none, class 2 fewer than groups
    together = [[0, 5], [1, 4, 6], [3]]  # of class 0
    activations = torch.rand(300, 8, generator=generator)
    for members in together:
        activations[:, members] = torch.rand(300, 1, generator=generator) + 0.05 * torch.rand(
            300, len(members), generator=generator
        )
    readout = torch.rand(3, 8, generator=generator) + 0.1
    readout[0, 4] = -1.0
    grouping = Grouping(class_of, 3, 3)
    group_coactivating_(grouping, activations, readout)
    dense = grouping.dense().detach()
    assert sorted(row.nonzero()[:, 0].tolist() for row in dense[:3]) == sorted(together)
    row = next(row for row in dense[:3] if row[1] > 0)
    expected = torch.tensor([readout[0, 1], LEAST, readout[0, 6]])
    torch.testing.assert_close(row[[1, 4, 6]], expected / expected.sum())
    torch.testing.assert_close(dense.sum(1), torch.ones(6))
    assert not bool(dense[3:, class_of != 2].any())
    torch.testing.assert_close(dense[5, [2, 7]], readout[2, [2, 7]] / readout[2, [2, 7]].sum())  # the group left over


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_prototypes_that_never_change_can_be_grouped(value: float) -> None:
    grouping = Grouping(torch.zeros(4, dtype=torch.int64), 1, 3)
    group_coactivating_(grouping, torch.full((10, 4), value), torch.ones(1, 4))
    torch.testing.assert_close(grouping.weights.sum(-1), torch.ones(1, 3))
    assert bool(fitted_readout(torch.full((10, 3), value), torch.randn(10, 2)).isfinite().all())
