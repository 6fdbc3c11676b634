"""Batched clustering against float64 loops; void, empty and tiny classes; gradients; what is never allocated."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from clustering_oracle import cluster, infonce, sinkhorn, update
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from segproto.prototypes.clustering import cluster_pixels, momentum_update
from segproto.prototypes.contrast import pixel_prototype_distance, pixel_prototype_infonce
from segproto.prototypes.embedding import class_scores, normalise_projection, prototype_similarities
from segproto.prototypes.segments import Segments
from segproto.prototypes.sinkhorn import balanced_assignment


def problem(seed, n, classes, k, dim, dtype=torch.float64):
    """Random unit rows and labels, with void (255 and out of range), and absent classes when n is small."""
    g = torch.Generator().manual_seed(seed)
    e = F.normalize(torch.randn(n, dim, generator=g, dtype=dtype), dim=1)
    p = F.normalize(torch.randn(classes, k, dim, generator=g, dtype=dtype), dim=-1)
    y = torch.randint(0, classes, (n,), generator=g)
    pred = torch.where(torch.rand(n, generator=g) < 0.6, y, torch.randint(0, classes, (n,), generator=g))
    y[torch.rand(n, generator=g) < 0.2] = 255
    y[torch.rand(n, generator=g) < 0.05] = classes
    y[torch.rand(n, generator=g) < 0.05] = -1
    return e, p, y, pred


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 60),
    st.integers(1, 7),
    st.integers(1, 5),
    st.sampled_from(["balance", "nearest"]),
)
def test_equals_the_loop_over_classes(seed, n, classes, k, few):
    e, p, y, pred = problem(seed, n, classes, k, 6)
    s = prototype_similarities(e, p)
    clusters = cluster_pixels(e, s, y, pred, classes, few=few)
    targets, sums, counts, q = cluster(e, s, y, pred, classes, few)
    torch.testing.assert_close(clusters.assignment, q, rtol=0, atol=1e-9)
    top = q.topk(min(2, k), 1).values
    clear = (top[:, 0] - top[:, -1] > 1e-9) | (k == 1) | (targets < 0)
    assert torch.equal(clusters.targets[clear], targets[clear])
    if bool(clear.all()):
        torch.testing.assert_close(clusters.sums, sums, rtol=0, atol=1e-9)
        assert torch.equal(clusters.counts, counts)
        new = momentum_update(p, clusters.sums, clusters.counts, momentum=0.8)
        torch.testing.assert_close(new, update(p, sums, counts, 0.8), rtol=0, atol=1e-9)
        assert torch.equal(new[counts == 0], p[counts == 0])


def test_float32_equals_float64_on_many_unequal_classes():
    e, p, y, pred = problem(3, 6000, 40, 10, 16)
    y = torch.where(torch.rand(6000, generator=torch.Generator().manual_seed(0)) < 0.5, 0, y)
    s = prototype_similarities(e, p)
    exact = cluster_pixels(e, s, y, pred, 40)
    single = cluster_pixels(e.float(), s.float(), y, pred, 40)
    torch.testing.assert_close(single.assignment.double(), exact.assignment, rtol=0, atol=2e-5)
    assert (single.targets != exact.targets).sum() <= 2


def test_low_precision_input_and_autocast_change_nothing():
    e, p, y, pred = problem(5, 400, 5, 4, 16, torch.float32)
    e, p = e.bfloat16().float(), p.bfloat16().float()
    plain = prototype_similarities(e, p)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = prototype_similarities(e.bfloat16(), p)
        clusters = cluster_pixels(e.bfloat16(), mixed, y, pred, 5)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, plain)
    assert torch.equal(clusters.sums, cluster_pixels(e, plain, y, pred, 5).sums)


@pytest.mark.parametrize("epsilon", [0.001, 0.01, 0.05, 10.0])
def test_no_epsilon_overflows(epsilon):
    own = torch.rand(500, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    classes = torch.arange(500) % 3
    q = balanced_assignment(own, classes, 3, epsilon=epsilon)
    assert bool(torch.isfinite(q).all())
    torch.testing.assert_close(q.sum(1), torch.ones(500))


def test_balance_is_reached_when_iterated():
    own = torch.rand(300, 4, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(300) % 2
    q = balanced_assignment(own, classes, 2, iterations=200)
    torch.testing.assert_close(Segments(classes, 2).sum(q), torch.full((2, 4), 150 / 4), rtol=1e-3, atol=0)


def test_a_shift_of_one_pixel_counts_only_in_the_first_sum():
    own = torch.tensor([[0.9, 0.1], [-0.9, -0.8], [0.2, 0.3]], dtype=torch.float64)
    q = balanced_assignment(own, torch.zeros(3, dtype=torch.int64), 1)
    torch.testing.assert_close(q, sinkhorn(own), rtol=0, atol=1e-12)


def test_single_pixels():
    own = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    classes = torch.tensor([0, 1])
    assert balanced_assignment(own, classes, 3, few="balance").tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert balanced_assignment(own, classes, 3).argmax(1).tolist() == [1, 0]


@pytest.mark.parametrize("n", [0, 1, 700])
def test_all_void_batches(n):
    e, p, _, pred = problem(0, n, 3, 2, 8, torch.float32)
    e.requires_grad_(True)
    y = torch.full((n,), 255)
    s = prototype_similarities(e, p)
    clusters = cluster_pixels(e, s, y, pred, 3)
    assert clusters.counts.sum() == 0
    assert clusters.sums.abs().sum() == 0
    assert (clusters.targets == -1).all()
    assert torch.equal(momentum_update(p, clusters.sums, clusters.counts), p)
    loss = pixel_prototype_infonce(s, clusters.targets) + pixel_prototype_distance(s, clusters.targets)
    loss.backward()
    assert float(loss.detach()) == 0
    assert e.grad is not None
    assert e.grad.abs().sum() == 0


def test_void_pixels_are_never_read():
    e, p, y, pred = problem(9, 300, 4, 3, 8)
    void = (y < 0) | (y >= 4)
    s = prototype_similarities(e, p)
    clean = cluster_pixels(e, s, y, pred, 4)
    e[void], s[void] = torch.nan, torch.nan
    dirty = cluster_pixels(e, s, y, pred, 4)
    for a, b in zip(clean, dirty, strict=True):
        assert torch.equal(a, b)
    kept = cluster_pixels(e[~void], s[~void], y[~void], pred[~void], 4)
    torch.testing.assert_close(kept.sums, clean.sums)
    assert torch.equal(kept.targets, clean.targets[~void])


def test_void_may_be_any_label_where_255_is_a_class():
    e, p, _, _ = problem(1, 600, 300, 2, 8)
    y = torch.arange(600) % 300
    y[0] = 65535
    clusters = cluster_pixels(e, prototype_similarities(e, p), y, y, 300, ignore_index=65535)
    assert clusters.targets[0] == -1
    assert clusters.targets[255] // 2 == 255
    assert clusters.counts.sum() == 599


def test_losses_equal_the_loop_and_pass_gradcheck():
    e, p, y, pred = problem(2, 12, 3, 2, 5)
    s = prototype_similarities(e, p)
    targets = cluster_pixels(e, s, y, pred, 3).targets
    assert (targets == -1).any()
    valid = [i for i in range(12) if targets[i] >= 0]
    torch.testing.assert_close(float(pixel_prototype_infonce(s, targets)), infonce(s, targets, 0.1))
    expected = sum((1 - float(s[i, targets[i]])) ** 2 for i in valid) / len(valid)
    torch.testing.assert_close(float(pixel_prototype_distance(s, targets)), expected)
    s.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: pixel_prototype_infonce(x, targets, temperature=0.5), (s,))
    assert torch.autograd.gradcheck(lambda x: pixel_prototype_distance(x, targets), (s,))
    x, z = s.detach().float().requires_grad_(True), s.detach().float().requires_grad_(True)
    pixel_prototype_infonce(x, targets).backward()
    F.cross_entropy(z / 0.1, targets, ignore_index=-1).backward()
    torch.testing.assert_close(x.grad, z.grad)
    normaliser = torch.tensor(0.4)  # a mean over several processes may divide by less than one pixel
    total = pixel_prototype_distance(s, targets) * len(valid)
    torch.testing.assert_close(pixel_prototype_distance(s, targets, normaliser=normaliser), total / 0.4)


def test_gradients_reach_embeddings_only():
    e, p, y, pred = problem(4, 50, 3, 2, 5)
    e.requires_grad_(True)
    p.requires_grad_(True)
    s = prototype_similarities(e, p)
    clusters = cluster_pixels(e, s, y, pred, 3)
    assert not any(t.requires_grad for t in clusters)
    assert not momentum_update(p, clusters.sums, clusters.counts).requires_grad
    pixel_prototype_infonce(s, clusters.targets).backward()
    assert e.grad is not None
    assert p.grad is None


def test_accumulated_batches_equal_one():
    e, p, y, pred = problem(6, 200, 3, 2, 8)
    s = prototype_similarities(e, p)
    whole = cluster_pixels(e, s, y, pred, 3)
    slots = whole.targets.masked_fill((pred != y) | (whole.targets < 0), 6)
    parts = [Segments(slots[i::3], 6).sum(e[i::3]).view(3, 2, 8) for i in range(3)]
    torch.testing.assert_close(sum(parts), whole.sums)


def test_readout_takes_the_nearest_prototype_of_each_class():
    e, p, _, _ = problem(8, 20, 4, 3, 6)
    scores, winners = class_scores(prototype_similarities(e, p * 5), 4)
    for i in range(20):
        for c in range(4):
            cosines = [float(e[i] @ p[c, k]) for k in range(3)]
            assert abs(float(scores[i, c]) - max(cosines)) < 1e-12
            assert int(winners[i, c]) == cosines.index(max(cosines))


def test_width_norm_is_per_row_and_channel():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = normalise_projection(x, "width_legacy")
    torch.testing.assert_close(y[1, 2, 3], x[1, 2, 3] / x[1, 2, 3].norm())


@pytest.mark.parametrize("count", [1, 3, 700])
def test_segments_equal_loops(count):
    g = torch.Generator().manual_seed(count)
    ids = torch.randint(0, count + 1, (1500,), generator=g)
    values = torch.randn(1500, 4, generator=g, dtype=torch.float64)
    values[ids == count] = torch.nan
    segments = Segments(ids, count)
    for c in range(count):
        rows = values[ids == c]
        assert segments.counts[c] == len(rows)
        torch.testing.assert_close(segments.sum(values)[c], rows.sum(0))
        if len(rows):
            assert torch.equal(segments.max(values)[c], rows.amax(0))
            best, index = segments.argmax(values[:, 0])
            assert best[c] == rows[:, 0].max() == values[index[c], 0]
        else:
            assert segments.argmax(values[:, 0])[1][c] == 1500


class Watch(TorchDispatchMode):
    """Counts operations and records the largest new tensor; fails on what waits for a device."""

    def __init__(self, *inputs):
        super().__init__()
        self.known = {t.untyped_storage().data_ptr() for t in inputs}
        self.largest, self.operations = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func), "reads a value on the host"
        assert "nonzero" not in str(func), "its shape depends on values"
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        for t in out if isinstance(out, tuple | list) else [out]:
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in self.known:
                self.largest = max(self.largest, t.untyped_storage().nbytes())
        return out


def test_no_copy_of_similarities_no_wait_and_no_loop():
    operations = []
    for classes in (5, 90):
        e, p, y, pred = problem(0, 4000, classes, 6, 8, torch.float32)
        s = prototype_similarities(e, p)
        with Watch(e, s, p) as watch:
            clusters = cluster_pixels(e, s, y, pred, classes)
            momentum_update(p, clusters.sums, clusters.counts)
        assert watch.largest <= 4000 * 6 * 8  # the (N, K) int64 index of one maximum
        operations.append(watch.operations)
    assert operations[0] == operations[1]


def test_wrong_shapes_are_named():
    e, p, y, pred = problem(0, 10, 3, 2, 4)
    with pytest.raises(ValueError, match="similarities"):
        cluster_pixels(e, prototype_similarities(e, p)[:, :5], y, pred, 3)
