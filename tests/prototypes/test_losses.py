"""Losses against naive float64 loops: values and gradients."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from segproto.prototypes import diversity
from segproto.prototypes.diversity import DiversityLoss
from segproto.prototypes.losses import grid_cross_entropy, off_class_l1


def naive_diversity(
    d: Tensor, labels: Tensor, class_of: Tensor, scale_of: Tensor, sign: int = 1, unshifted: bool = False
) -> Tensor:
    terms = []
    num_classes = 10
    for b in range(d.shape[0]):
        for c in range(num_classes):
            seen = (255 if c == 0 else c - 1) if unshifted else c
            omega = labels[b] == seen
            if int(omega.sum()) < 2:
                continue
            for s in scale_of.unique().tolist():
                own = [p for p in range(len(class_of)) if class_of[p] == c and scale_of[p] == s]
                for i, j in combinations(own, 2):
                    log_i = torch.log_softmax(sign * d[b, i][omega], 0)
                    log_j = torch.log_softmax(sign * d[b, j][omega], 0)
                    kl_ij = (log_i.exp() * (log_i - log_j)).sum()
                    kl_ji = (log_j.exp() * (log_j - log_i)).sum()
                    terms.append(torch.exp(-(kl_ij + kl_ji) / 2))
    return torch.stack(terms).mean() if terms else (d * 0).sum()


CLASS_OF = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 3, 4, 4, 0, 1, 1, 1, 2, 2, 3, 4, 4])  # scales of 11 and 9, ragged
SCALE_OF = torch.tensor([0] * 11 + [1] * 9)


def scene(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Distances and labels with a missing class (2), a one-cell class (4), void, a class beyond the bank, an all-void
    image."""
    torch.manual_seed(seed)
    labels = torch.randint(0, 2, (3, 7, 9))
    labels[0, 2:4] = 3
    labels[0, 0, 0] = 4
    labels[1, :, 3] = 9
    labels[1, 0] = 255
    labels[1, 5:] = 4
    labels[2] = 255
    return torch.rand(3, len(CLASS_OF), 7, 9, dtype=torch.float64) * 20, labels


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("unshifted", [False, True])
@pytest.mark.parametrize("one_scale", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
def test_diversity_value_and_gradient(
    sign: int, unshifted: bool, one_scale: bool, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sum, as on a CPU, and in several, as on a GPU."""
    monkeypatch.setattr(diversity, "parts_on", lambda device, cells: parts)
    distances, labels = scene()
    scale_of = torch.zeros_like(SCALE_OF) if one_scale else SCALE_OF
    expected_d = (distances / 8).requires_grad_()
    expected = naive_diversity(expected_d, labels, CLASS_OF, scale_of, sign, unshifted)
    expected.backward()
    ours_d = (distances / 8).requires_grad_()
    ours = DiversityLoss(CLASS_OF, scale_of, sign=sign, unshifted_labels=unshifted)(ours_d, labels)
    ours.backward()
    assert ours.item() == pytest.approx(expected.item(), abs=1e-12)
    torch.testing.assert_close(ours_d.grad, expected_d.grad, rtol=1e-9, atol=1e-14)
    single_d = (distances / 8).float().requires_grad_()
    single = DiversityLoss(CLASS_OF, scale_of, sign=sign, unshifted_labels=unshifted)(single_d, labels)
    single.backward()
    assert single.item() == pytest.approx(expected.item(), abs=1e-6)
    assert expected_d.grad is not None
    torch.testing.assert_close(
        single_d.grad, expected_d.grad.float(), rtol=1e-4, atol=1e-5 * float(expected_d.grad.abs().max())
    )


def test_variants_differ() -> None:
    distances, labels = scene()
    values = {
        DiversityLoss(CLASS_OF, SCALE_OF, sign=sign, unshifted_labels=shift)(distances / 8, labels).item()
        for sign in (1, -1)
        for shift in (False, True)
    }
    assert len(values) == 4


@pytest.mark.parametrize(
    ("second", "divergence", "loss"), [((2, 1, 0), 1.150421, 0.316504), ((0, 1, 1), 0.121461, 0.885626)]
)
def test_diversity_golden_values(second: tuple[int, ...], divergence: float, loss: float) -> None:
    distances = torch.tensor([[[[0, 1, 2]], [second]]], dtype=torch.float64).view(1, 2, 1, 3)
    value = DiversityLoss(torch.tensor([0, 0]), torch.tensor([0, 0]))(distances, torch.zeros(1, 1, 3).long())
    assert value.item() == pytest.approx(loss, abs=1e-6)
    assert -value.log().item() == pytest.approx(divergence, abs=2e-6)


@pytest.mark.parametrize(
    ("labels", "class_of"),
    [([255, 255, 255], [0, 0]), ([0, 255, 255], [0, 0]), ([0, 0, 0], [0, 1]), ([1, 1, 1], [0, 0])],
)
def test_nothing_to_compare_is_zero_with_zero_gradient(labels: list[int], class_of: list[int]) -> None:
    distances = torch.rand(1, 2, 1, 3, requires_grad=True)
    value = DiversityLoss(torch.tensor(class_of), torch.zeros(2).long())(distances, torch.tensor(labels).view(1, 1, 3))
    value.backward()
    assert value.item() == 0
    assert distances.grad is not None
    assert (distances.grad == 0).all()


def test_large_distances_stay_finite() -> None:
    distances = (torch.rand(1, 4, 8, 8) * 1e4).requires_grad_()
    value = DiversityLoss(torch.zeros(4).long(), torch.zeros(4).long())(distances, torch.zeros(1, 8, 8).long())
    value.backward()
    assert value.isfinite()
    assert distances.grad is not None
    assert distances.grad.isfinite().all()


def test_diversity_refuses_other_signs() -> None:
    with pytest.raises(ValueError, match="expected 1 or -1"):
        DiversityLoss(CLASS_OF, SCALE_OF, sign=2)


def test_cross_entropy_leaves_void_out() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 3, 5), torch.randint(0, 4, (2, 3, 5))
    labels[0, 1] = 255
    rows = logits.permute(0, 2, 3, 1)[labels != 255].double()
    expected = -torch.log_softmax(rows, 1).gather(1, labels[labels != 255][:, None]).mean()
    assert grid_cross_entropy(logits, labels).item() == pytest.approx(expected.item(), abs=1e-6)


def test_cross_entropy_of_void_is_zero() -> None:
    logits = torch.randn(1, 4, 3, 5, requires_grad=True)
    loss = grid_cross_entropy(logits, torch.full((1, 3, 5), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_off_class_l1_sums_other_classes() -> None:
    weight = torch.tensor([[5.0, -1, 2], [-3, 4, 0.5]], requires_grad=True)
    loss = off_class_l1(weight, torch.tensor([0, 1, 0]))
    loss.backward()
    assert loss.item() == pytest.approx(1 + 3 + 0.5)
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0, -1, 0], [-1, 0, 1]]
