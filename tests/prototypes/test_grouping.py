"""Simplex projection and grouping: golden values, invariants, and the naive loop over classes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segproto.prototypes.grouping import Grouping
from segproto.prototypes.readout import initial_readout
from segproto.prototypes.simplex import project_simplex

RAGGED = torch.tensor([0, 0, 2, 2, 4, 0, 0, 2, 4, 4, 0, 2, 2, 2])  # classes 1 and 3 have no prototype


def naive_simplex(v: list[float]) -> list[float]:
    u = sorted(v, reverse=True)
    rho, theta = 0, 0.0
    for j in range(1, len(u) + 1):
        css = sum(u[:j]) - 1
        if u[j - 1] - css / j > 0:
            rho, theta = j, css / j
    assert rho > 0
    return [max(x - theta, 0.0) for x in v]


@pytest.mark.parametrize(
    ("v", "w"),
    [
        ([0.5, 0.2, -0.1, 0.9], [0.3, 0, 0, 0.7]),
        ([3, 0, 0, -1], [1, 0, 0, 0]),
        ([0, 0, 0, 0], [0.25] * 4),
        ([-0.3, -0.2, -0.1, -0.4], [0.2, 0.3, 0.4, 0.1]),
    ],
)
def test_simplex_golden_values(v: list[float], w: list[float]) -> None:
    torch.testing.assert_close(project_simplex(torch.tensor(v, dtype=torch.float64)), torch.tensor(w).double())


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=15))
@settings(max_examples=200, deadline=None)
def test_simplex_invariants(values: list[float]) -> None:
    v = torch.tensor(values)
    w = project_simplex(v)
    assert w.min() >= 0
    assert abs(w.double().sum().item() - 1) < 1e-6
    torch.testing.assert_close(w, torch.tensor(naive_simplex(values)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(project_simplex(w), w, rtol=1e-5, atol=1e-6)
    order = v.argsort()
    assert (w[order].diff() >= 0).all()
    torch.testing.assert_close(project_simplex(v + 3), w, rtol=1e-4, atol=1e-4)


def test_simplex_is_the_nearest_point() -> None:
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(50, 1, 6, generator=generator)
    others = torch.distributions.Dirichlet(torch.full((6,), 0.5)).sample((50, 300))
    best = (v - project_simplex(v)).square().sum(-1)
    assert ((v - others).square().sum(-1) >= best - 1e-6).all()


def test_simplex_padding_and_dimension() -> None:
    v = torch.randn(4, 3, 7)
    mask = torch.arange(7) < torch.tensor([7, 3, 1, 0])[:, None]
    w = project_simplex(v, mask=mask[:, None])
    for k, n in enumerate([7, 3, 1]):
        torch.testing.assert_close(w[k, :, :n], project_simplex(v[k, :, :n]))
        assert (w[k, :, n:] == 0).all()
    assert (w[3] == 0).all()
    torch.testing.assert_close(project_simplex(v.transpose(0, 2), dim=0), project_simplex(v).transpose(0, 2))


def naive_groups(activations: Tensor, grouping: Grouping, class_of: Tensor) -> Tensor:
    """The published arrangement: class by class, in float64."""
    g, out, k = activations.double(), [], 0
    for c in range(grouping.num_classes):
        own = [p for p in range(len(class_of)) if class_of[p] == c]
        if own:
            for row in grouping.weights[k].detach().double():
                out.append(torch.exp(sum(row[i] * g[:, p] for i, p in enumerate(own))))  # type: ignore[arg-type]
            k += 1
    return torch.stack(out, 1)


@pytest.mark.parametrize(("class_of", "classes"), [(RAGGED, 5), (torch.arange(40).repeat_interleave(3).repeat(4), 40)])
def test_forward_equals_naive_loop(class_of: Tensor, classes: int) -> None:
    torch.manual_seed(0)
    grouping = Grouping(class_of, classes, 3)
    activations = torch.rand(2, len(class_of), 3, 4) * 9.21
    expected = naive_groups(activations, grouping, class_of)
    out = grouping(activations)
    assert out.shape == (2, grouping.num_groups, 3, 4)
    assert ((out.double() - expected).abs() / expected).max() < 3e-6
    dense = torch.einsum("kp,bphw->bkhw", grouping.dense().double(), activations.double()).exp()
    torch.testing.assert_close(dense, expected)


def test_groups_are_geometric_means_of_similarity_ratios() -> None:
    grouping = Grouping(torch.tensor([0, 0]), 1, 1)
    with torch.no_grad():
        grouping.weights.copy_(torch.tensor([[[0.25, 0.75]]]))
    d = torch.tensor([0.2, 1.5]).view(1, 2, 1, 1)
    ratio = (d + 1) / (d + 1e-4)
    expected = ratio[0, 0] ** 0.25 * ratio[0, 1] ** 0.75
    torch.testing.assert_close(grouping(ratio.log())[0, 0], expected)


def test_gradients_equal_dense_matrix_and_skip_padding() -> None:
    torch.manual_seed(0)
    grouping = Grouping(RAGGED, 5, 3)
    activations = torch.rand(2, len(RAGGED), 3, 4, requires_grad=True)
    grouping(activations).square().sum().backward()
    ours, ours_w = activations.grad, grouping.weights.grad
    activations.grad, grouping.weights.grad = None, None
    torch.einsum("kp,bphw->bkhw", grouping.dense(), activations).exp().square().sum().backward()
    assert ours is not None
    assert ours_w is not None
    torch.testing.assert_close(ours, activations.grad)
    torch.testing.assert_close(ours_w, grouping.weights.grad)
    assert (ours_w[~grouping.mask[:, None].expand_as(ours_w)] == 0).all()


def test_only_present_classes_get_groups() -> None:
    grouping = Grouping(RAGGED, 5, 3)
    assert grouping.class_of_group.tolist() == [0] * 3 + [2] * 3 + [4] * 3
    assert grouping.weights.shape == (3, 3, 6)
    assert grouping.members[0].tolist() == [0, 1, 5, 6, 10, 0]
    assert grouping.mask.sum(1).tolist() == [5, 6, 3]
    weights = grouping.weights
    assert (weights >= 0).all()
    assert (weights.sum(-1) - 1).abs().max() < 1e-6
    assert (weights[~grouping.mask[:, None].expand_as(weights)] == 0).all()


def test_initial_weights_follow_the_default_linear_start() -> None:
    """About 6.9 of 12 entries are positive (docs/specs/scaleproto.md#groups), whatever padding lies beside them."""
    torch.manual_seed(0)
    class_of = torch.cat([torch.arange(400).repeat_interleave(12), torch.full((20,), 400)])
    full = Grouping(class_of, 401, 3).weights[:400]
    assert (full > 0).sum(-1).float().mean().item() == pytest.approx(6.9, abs=0.15)
    reference = project_simplex(torch.stack([torch.nn.Linear(12, 3, bias=False).weight for _ in range(400)]))
    assert full.square().sum(-1).mean().item() == pytest.approx(reference.square().sum(-1).mean().item(), rel=0.05)


def test_project_threshold_and_figures() -> None:
    grouping = Grouping(torch.tensor([0, 0, 0, 1, 1]), 2, 2)
    with torch.no_grad():
        grouping.weights.copy_(
            torch.tensor([[[0.5, 0.46, 0.04], [0.0, 1.0, 0.0]], [[0.05, 0.95, 0.0], [0.03, 0.97, 0.0]]])
        )
    grouping.threshold_(0.05)
    expected = torch.tensor([[[0.5, 0.46, 0.0], [0.0, 1.0, 0.0]], [[0.05, 0.95, 0.0], [0.0, 0.97, 0.0]]])
    assert torch.equal(grouping.weights.detach(), expected)  # the rows are not scaled back to sum 1
    assert grouping.used_prototypes().tolist() == [True, True, False, True, True]
    assert grouping.group_average() == pytest.approx(6 / 4)
    grouping.project_()
    assert (grouping.weights.sum(-1) - 1).abs().max() < 1e-6


def test_entropy_golden_values_and_single_prototype() -> None:
    grouping = Grouping(torch.arange(2).repeat_interleave(12), 2, 1)
    with torch.no_grad():
        grouping.weights.fill_(1 / 12)
    assert grouping.entropy().item() == pytest.approx(0.99995, abs=1e-5)
    with torch.no_grad():
        grouping.weights.zero_()
        grouping.weights[..., :2] = torch.tensor([0.7, 0.3])
    assert grouping.entropy().item() == pytest.approx(0.24582, abs=1e-5)
    single = Grouping(torch.tensor([0, 1, 1]), 2, 3)
    value = single.entropy()
    value.backward()
    rows = single.weights.detach()[1, :, :2].double()
    naive = sum(-(w * math.log(w + 1e-5)) for w in rows.flatten().tolist()) / math.log(2)
    assert value.item() == pytest.approx(naive / 6, abs=1e-6)  # the three groups of class 0 count 0
    assert single.weights.grad is not None
    assert single.weights.grad.isfinite().all()


def test_autocast_keeps_float32() -> None:
    grouping = Grouping(RAGGED, 5, 3)
    activations = torch.rand(1, len(RAGGED), 4, 4) * 9
    expected = grouping(activations)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(grouping(activations), expected)


def test_initial_readout() -> None:
    weight = initial_readout(torch.tensor([0, 0, 2]), 3)
    assert weight.tolist() == [[1, 1, -0.5], [-0.5, -0.5, -0.5], [-0.5, -0.5, 1]]
    assert initial_readout(torch.tensor([0, 1]), 2, on=2, off=0).tolist() == [[2, 0], [0, 2]]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="at least one group"):
        Grouping(torch.tensor([0]), 1, 0)
    with pytest.raises(ValueError, match=r"class 3, expected 0\.\.1"):
        Grouping(torch.tensor([0, 3]), 2, 1)
