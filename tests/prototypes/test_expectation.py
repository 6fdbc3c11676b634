"""Equations of PriMaPs-EM against the golden values of docs/specs/primaps.md and naive loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from segproto.metrics.matching import hungarian
from segproto.metrics.segmentation import segmentation_scores
from segproto.prototypes.expectation import frequency_weighted_loss, kmeans_loss, majority_vote, teacher_decay
from segproto.prototypes.streaming_pca import StreamingPca


@pytest.mark.parametrize("splits", [[100], [7, 50, 43]])
def test_components_are_those_of_a_decomposition_of_all_rows(splits: list[int]) -> None:
    torch.manual_seed(0)
    rows = torch.randn(100, 6, dtype=torch.float64) @ torch.diag(torch.arange(6, 0, -1).double()) + 3
    pca = StreamingPca(6)
    for part in rows.float().split(splits):
        pca.update(part)
    expected = torch.linalg.svd(rows - rows.mean(0))[2][:4].float()
    ours = pca.components(4)
    torch.testing.assert_close((ours * expected).sum(1).abs(), torch.ones(4), rtol=0, atol=1e-5)
    assert bool((ours.gather(1, ours.abs().argmax(1, keepdim=True)) > 0).all())


def test_two_processes_moments_add_up() -> None:
    rows = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    one, a, b = StreamingPca(5), StreamingPca(5), StreamingPca(5)
    one.update(rows)
    a.update(rows[::2])
    b.update(rows[1::2])
    torch.testing.assert_close(one.components(3), a.components(3, lambda mine: mine + b.moments))


def test_no_components_of_nothing() -> None:
    with pytest.raises(ValueError, match="cannot be had"):
        StreamingPca(3).components(2)
    pca = StreamingPca(3)
    pca.update(torch.ones(2, 3))
    with pytest.raises(ValueError, match="3 channels"):
        pca.components(4)


def test_kmeans_loss_is_the_mean_of_the_nearest_cosine() -> None:
    torch.manual_seed(0)
    features, vectors = torch.randn(2, 5, 3, 4), torch.randn(3, 5, requires_grad=True)
    total = []
    for cell in features.permute(0, 2, 3, 1).reshape(-1, 5).double().numpy():
        total.append(
            max(cell @ v / np.linalg.norm(cell) / np.linalg.norm(v) for v in vectors.detach().double().numpy())
        )
    loss = kmeans_loss(features, vectors)
    assert loss.item() == pytest.approx(-np.mean(total), abs=1e-6)
    loss.backward()
    assert bool((vectors.grad * vectors).sum(1).abs().max() < 1e-6)  # of unit length whatever the length


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 5), st.integers(1, 6))
def test_the_vote_is_a_mode_of_every_mask(seed: int, images: int, masks: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    regions, y = rng.integers(0, masks + 1, (images, 4, 5)), rng.integers(0, classes, (images, 4, 5))
    expected = np.full_like(regions, 255)
    for b in range(images):
        for m in range(1, masks + 1):
            inside = regions[b] == m
            if inside.any():
                expected[b][inside] = np.bincount(y[b][inside], minlength=classes).argmax()
    voted = majority_vote(torch.from_numpy(y), torch.from_numpy(regions), classes)
    assert torch.equal(voted, torch.from_numpy(expected))


def test_loss_fixture() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])[None, :, None]  # class 0: (2, 0), class 1: (0, 1), two pixels
    loss = frequency_weighted_loss(logits, torch.tensor([[[0, 255]]]))
    assert loss.item() == pytest.approx(0.0114702, abs=1e-7)
    chi = logits.softmax(1).mean((0, 2, 3))
    torch.testing.assert_close(chi, torch.tensor([0.574869, 0.425131]), atol=1e-6, rtol=0)


def test_weights_take_no_gradient_and_void_pixels_count_in_the_divisor() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 3, 5, dtype=torch.float64).float().requires_grad_()
    labels = torch.randint(0, 4, (2, 3, 5))
    labels[0, 0] = 255
    loss = frequency_weighted_loss(logits, labels, gamma=1.5)
    loss.backward()
    p = logits.detach().double().softmax(1)
    w = (1 - p.mean((0, 2, 3))) ** 1.5
    flat, own = p.permute(0, 2, 3, 1).reshape(-1, 4), labels.flatten()
    kept = own != 255
    value = -(w[own[kept]] * flat[kept, own[kept]].log()).sum() / labels.numel()
    assert loss.item() == pytest.approx(value.item(), rel=1e-6)
    gradient = flat * torch.where(kept, w[own.clamp_max(3)], 0)[:, None]
    gradient[kept, own[kept]] -= w[own[kept]]
    ours = logits.grad.permute(0, 2, 3, 1).reshape(-1, 4).double()
    torch.testing.assert_close(ours, gradient / 30, atol=1e-7, rtol=1e-5)


def test_frequencies_of_several_processes_are_summed() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    whole = frequency_weighted_loss(logits, labels)

    def packed(half: int) -> torch.Tensor:
        shares = logits[half : half + 1].softmax(1).sum((0, 2, 3))
        return torch.cat([shares, torch.tensor([16.0])])

    parts = [
        frequency_weighted_loss(
            logits[i : i + 1], labels[i : i + 1], reduce=lambda mine, op="sum", other=1 - i: mine + packed(other)
        )
        for i in range(2)
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_ema_fixture() -> None:
    expected = {1: 1, 2: 2, 3: 2.3333, 4: 2.75, 5: 3.2, 10: 5.6, 49: 25.0204, 50: 25.52, 51: 26.0296, 52: 26.549}
    expected[59] = 30.4435
    teacher = 0.0
    for n in range(1, 60):
        d = teacher_decay(n)
        teacher = d * teacher + (1 - d) * n
        if n in expected:
            assert teacher == pytest.approx(expected[n], abs=6e-5), n
    assert teacher_decay(1, 0.9, "none") == 0.9


@pytest.mark.parametrize(
    ("stats", "class_of", "iou", "miou", "accuracy"),
    [
        ([[1, 50, 2], [40, 3, 0], [5, 10, 0]], [1, 0, 2], [81.63, 75.76, 0], 52.46, 81.08),
        ([[1, 50, 0], [40, 3, 0], [0, 0, 0]], [1, 0, 2], [90.91, 92.59, None], 91.75, 95.74),
    ],
)
def test_metric_fixtures(stats: list, class_of: list, iou: list, miou: float, accuracy: float) -> None:
    matching = hungarian(torch.tensor(stats).T)  # the fixtures have clusters in rows
    assert matching.class_of.tolist() == class_of
    scores = segmentation_scores(matching.confusion, matching.undecided)
    assert [None if v is None else round(100 * v, 2) for v in scores.iou] == iou
    assert round(100 * scores.miou, 2) == miou
    assert round(100 * scores.accuracy, 2) == accuracy


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5))
def test_matching_agrees_with_trying_all(seed: int, classes: int, categories: int) -> None:
    from itertools import permutations

    table = np.random.default_rng(seed).integers(0, 20, (classes, categories))
    size = max(classes, categories)
    square = np.zeros((size, size), dtype=int)
    square[:classes, :categories] = table
    best = max(square[list(p), range(size)].sum() for p in permutations(range(size)))
    matching = hungarian(torch.from_numpy(table))
    assert int(matching.confusion.diagonal().sum()) == best
    assert int(matching.confusion.sum() + matching.undecided.sum()) == table.sum()
    taken = [c for c in matching.class_of.tolist() if c >= 0]
    assert len(taken) == len(set(taken)) == min(classes, categories)


def test_logits_on_the_grid_commute_with_upsampling() -> None:
    torch.manual_seed(0)
    features, weight = torch.randn(1, 6, 4, 5), torch.randn(3, 6, 1, 1)
    small = F.interpolate(F.conv2d(features, weight), size=(32, 40), mode="bilinear", align_corners=False)
    large = F.conv2d(F.interpolate(features, size=(32, 40), mode="bilinear", align_corners=False), weight)
    torch.testing.assert_close(small, large, atol=1e-5, rtol=1e-5)
    assert float((small.argmax(1) == large.argmax(1)).float().mean()) > 0.999
