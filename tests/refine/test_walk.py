"""Affinity pairs, the random walk and the threshold curve against stored values and plain versions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segproto.metrics.cam_curve import CamCurve, best_point
from segproto.metrics.segmentation import confusion_matrix
from segproto.refine.affinity import affinity, affinity_loss, affinity_targets, cell_pairs, pair_labels
from segproto.refine.random_walk import dense_affinity, random_walk, transitions


def lcg(seed: int, *shape: int) -> Tensor:
    values, x = [], seed
    for _ in range(torch.Size(shape).numel()):
        x = (1664525 * x + 1013904223) % 2**32
        values.append(x / 2**32)
    return torch.tensor(values, dtype=torch.float64).view(shape)


def test_stored_pairs() -> None:
    pairs = cell_pairs(56, 56, complete=False)
    first, second = pairs.indices()
    assert len(pairs.windows) == 34
    assert len(pairs) == len(first) == 84_864
    assert int(first[: 52 * 48].sum()) == 3_632_928
    assert int(second.sum()) == 133_049_280
    y, x = torch.meshgrid(torch.arange(56), torch.arange(56), indexing="ij")
    labels = torch.zeros(56, 56, dtype=torch.int64)
    labels[(x - 20) ** 2 + (y - 24) ** 2 < 150] = 5
    labels[(x - 40) ** 2 + (y - 36) ** 2 < 100] = 15
    labels[(x + y) % 9 == 0] = 255
    assert [int(m.sum()) for m in pair_labels(labels[None], pairs)] == [42_250, 17_392, 7_175]


def test_stored_walk() -> None:
    pairs = cell_pairs(12, 15, complete=False)
    a = affinity(lcg(31, 1, 16, 12, 15).float(), pairs)
    dense = dense_affinity(a[0], pairs)
    assert dense.sum().item() == pytest.approx(2923.20889, abs=1e-2)
    assert int((dense != 0).sum()) == 3988
    assert dense[20, 21].item() == pytest.approx(0.700521, abs=1e-5)
    degree = (dense != 0).sum(1).view(12, 15)
    assert [int(degree[c]) for c in ((0, 0), (0, 7), (5, 7), (11, 0), (11, 7))] == [1, 38, 64, 1, 6]
    out = random_walk(lcg(32, 1, 21, 12, 15).float(), a, pairs)[0].flatten(1)
    assert out.sum().item() == pytest.approx(1897.99915, abs=1e-2)
    assert out[0, :4].tolist() == pytest.approx([0.248470, 0.181087, 0.730199, 0.852391], abs=1e-5)
    assert out[-1, -1].item() == pytest.approx(0.896820, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 13), st.integers(1, 13), st.integers(2, 5))
def test_complete_pairs_are_all_pairs(h: int, w: int, radius: int) -> None:
    first, second = cell_pairs(h, w, radius).indices() if h * w > 1 else (torch.zeros(0), torch.zeros(0))
    cells = [(y, x) for y in range(h) for x in range(w)]
    near = {
        (y * w + x, v * w + u)
        for y, x in cells
        for v, u in cells
        if (v, u) > (y, x) and (v - y) ** 2 + (u - x) ** 2 < radius**2
    }
    pairs_listed = list(zip(first.tolist(), second.tolist(), strict=True))
    assert len(pairs_listed) == len(set(pairs_listed))
    assert set(pairs_listed) == near


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 99), st.booleans(), st.integers(0, 4))
def test_walk_is_the_dense_power(h: int, w: int, seed: int, complete: bool, steps: int) -> None:
    g = torch.Generator().manual_seed(seed)
    pairs = cell_pairs(h, w, 4, complete=complete)
    a = affinity(torch.randn(2, 3, h, w, generator=g), pairs)
    scores = torch.rand(2, 5, h, w, generator=g)
    out = random_walk(scores, a, pairs, beta=3, log_steps=steps)
    for i in range(2):
        t = dense_affinity(a[i].double(), pairs) ** 3 if pairs.windows else torch.eye(h * w, dtype=torch.float64)
        t = torch.linalg.matrix_power(t / t.sum(0), 2**steps)
        torch.testing.assert_close(out[i].flatten(1).double(), scores[i].flatten(1).double() @ t, atol=1e-5, rtol=0)
    assert out.min() >= scores.min() - 1e-5
    assert out.max() <= scores.max() + 1e-5
    torch.testing.assert_close(transitions(a, pairs, 3)[1].sum(2), torch.ones(2, h * w))


def test_affinity_gradient() -> None:
    pairs = cell_pairs(5, 6, 3)
    u = torch.randn(2, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: affinity(x, pairs), u)


def test_affinity_loss_as_written() -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 6, 7), generator=g).masked_fill(torch.rand(2, 6, 7, generator=g) < 0.2, 255)
    pairs = cell_pairs(6, 7, 3)
    a = torch.rand(2, len(pairs), dtype=torch.float64, generator=g)
    terms: dict[str, list[Tensor]] = {"bg": [], "fg": [], "neg": []}
    first, second = pairs.indices()
    for n in range(2):
        for e, (i, j) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
            x, y = int(labels[n].flatten()[i]), int(labels[n].flatten()[j])
            if 255 in (x, y):
                continue
            if x == y:
                terms["bg" if x == 0 else "fg"].append(-(a[n, e] + 1e-5).log())
            else:
                terms["neg"].append(-(1 + 1e-5 - a[n, e]).log())
    mean = {k: sum(v) / (len(v) + 1e-5) for k, v in terms.items()}
    expected = mean["bg"] / 4 + mean["fg"] / 4 + mean["neg"] / 2
    torch.testing.assert_close(affinity_loss(a, *pair_labels(labels, pairs)), expected)


def test_affinity_targets_are_sure_or_void() -> None:
    low = torch.tensor([[0.9, 0.1, 0.1, 0.1, 0.0], [0.1, 0.8, 0.7, 0.2, 0.0], [0.0, 0.1, 0.2, 0.7, 0.0]])
    high = torch.tensor([[0.6, 0.5, 0.9, 0.1, 0.0], [0.3, 0.7, 0.1, 0.2, 0.0], [0.1, 0.1, 0.0, 0.7, 0.0]])
    low[:, 0] = torch.tensor([0.9, 0.1, 0.0])
    got = affinity_targets(low.view(1, 3, 1, 5), high.view(1, 3, 1, 5))
    assert got.flatten().tolist() == [0, 1, 0, 2, 255]
    unsure = affinity_targets(torch.tensor([0.9, 0.1]).view(1, 2, 1, 1), torch.tensor([0.1, 0.9]).view(1, 2, 1, 1))
    assert unsure.item() == 255


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.integers(0, 99))
def test_curve_is_one_confusion_a_threshold(k: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    thresholds = torch.tensor([0.0, 0.1, 0.25, 0.5, 0.75])
    curve, other = CamCurve(5, thresholds), CamCurve(5, thresholds)
    expected = torch.zeros(5, 5, 5, dtype=torch.int64)
    for image in range(3):
        scores = torch.randint(0, 9, (k, 7, 8), generator=g) / 8  # ties with the thresholds
        classes = torch.randperm(4, generator=g)[:k].sort().values + 1
        target = torch.randint(0, 5, (7, 8), generator=g).masked_fill(torch.rand(7, 8, generator=g) < 0.1, 255)
        (curve if image else other).update(scores, classes, target)
        for i, t in enumerate(thresholds):
            full = torch.full((5, 7, 8), -1.0)
            full[0] = t
            full[classes] = scores
            full[full < t] = -1  # the background wins ties
            full[1:][full[1:] <= t] = -1
            expected[i] += confusion_matrix(full.argmax(0), target, 5)
    curve.merge(other)
    assert torch.equal(curve.confusions(), expected)
    points = curve.compute(lambda t: t)
    best = best_point(points)
    assert best.scores.miou == max(p.scores.miou for p in points)


def test_curve_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match="maps are"):
        CamCurve(3).update(torch.rand(1, 4, 5), torch.tensor([1]), torch.zeros(5, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="outside"):
        CamCurve(3).update(torch.rand(1, 4, 5), torch.tensor([1]), torch.full((4, 5), 7))
