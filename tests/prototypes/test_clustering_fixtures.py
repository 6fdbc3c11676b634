"""Stored figures of the published behaviour, and the collapse test."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segproto.prototypes.clustering import cluster_pixels, momentum_update
from segproto.prototypes.contrast import pixel_prototype_distance, pixel_prototype_infonce
from segproto.prototypes.embedding import class_scores, normalise_projection, prototype_similarities
from segproto.prototypes.health import cluster_health
from segproto.prototypes.seeding import kmeans_plus_plus
from segproto.prototypes.sinkhorn import balanced_assignment, choose


def close(actual, expected, atol=1e-6):
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=actual.dtype), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_balanced_assignment_of_four_pixels(dtype):
    own = torch.tensor([[0.9, 0.8, 0.1], [0.7, 0.75, 0.2], [0.85, 0.4, 0.3], [0.6, 0.65, 0.62]], dtype=dtype)
    q = balanced_assignment(own, torch.zeros(4, dtype=torch.int64), 1)
    expected = [
        [0.485919, 0.514030, 0.000051],
        [0.044864, 0.953250, 0.001886],
        [0.983837, 0.000949, 0.015214],
        [0.000713, 0.015139, 0.984149],
    ]
    close(q, expected)
    assert choose(q).tolist() == [1, 1, 0, 2]


def test_norm_along_the_width():
    x = torch.tensor([[1.0, 2, 3], [4, 5, 6]])[None, None]
    expected = [[[[0.267261, 0.534522, 0.801784], [0.455842, 0.569803, 0.683763]]]]
    close(normalise_projection(x, "width_legacy"), expected)
    assert torch.equal(normalise_projection(x, "channel"), torch.ones_like(x))
    assert torch.equal(normalise_projection(x, "none"), x)


@pytest.mark.parametrize("few", ["balance", "nearest"])
def test_one_step_of_six_pixels(few):
    e = F.normalize(
        torch.tensor([[1, 0.1, 0.1], [0.7, 0.7, 0], [0.1, 0.9, 0.2], [-0.3, 0.4, 1], [0.2, 1, 0.9], [0.9, 0.8, 0.7]]),
        dim=1,
    )
    p = F.normalize(torch.tensor([[[1, 0.2, 0], [0.8, 0.6, 0.1]], [[0, 1, 0.3], [-0.2, 0.5, 0.9]]]), dim=-1)
    y, pred = torch.tensor([0, 1, 1, 1, 1, -1]), torch.tensor([0, 0, 1, 1, 1, 0])
    s = prototype_similarities(e, p)
    clusters = cluster_pixels(e, s, y, pred, 2, few=few, ignore_index=-1)
    if few == "balance":
        close(clusters.assignment[0], [0.5, 0.5])
    expected = [[0.999806, 0.000194], [0.998228, 0.001772], [0.000159, 0.999841], [0.294799, 0.705201]]
    close(clusters.assignment[1:5], expected)
    assert clusters.targets.tolist() == [0, 2, 2, 3, 3, -1]
    assert clusters.counts.tolist() == [[1, 0], [1, 2]]
    new = momentum_update(p, clusters.sums, clusters.counts, momentum=0.9)
    first = [[0.982392, 0.186568, 0.009910], [0.796030, 0.597022, 0.099504]]
    second = [[0.010792, 0.959825, 0.280393], [-0.178207, 0.487016, 0.855019]]
    close(new, [first, second])
    close(pixel_prototype_infonce(s, clusters.targets, temperature=1.0), 1.108372)
    close(pixel_prototype_distance(s, clusters.targets), 0.023293)
    assert class_scores(s, 2)[0].argmax(1).tolist()[:1] == [0]


@pytest.mark.parametrize("mode", ["gumbel_log", "gumbel_prob_legacy"])
def test_drawn_assignments_have_the_stated_frequencies(mode):
    q = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]])
    expected = q if mode == "gumbel_log" else q.softmax(1)
    draws = 40_000
    generator = torch.Generator().manual_seed(0)
    drawn = choose(q.repeat_interleave(draws, 0), mode, generator).view(2, draws)
    frequency = F.one_hot(drawn, 3).float().mean(1)
    torch.testing.assert_close(frequency, expected, rtol=0, atol=0.012)


def toy_modes(generator: torch.Generator) -> torch.Tensor:
    """Ten unit rows with a mean pairwise cosine of about 0.72."""
    common = F.normalize(torch.randn(1, 32, generator=generator), dim=1)
    return F.normalize(common + 0.62 * F.normalize(torch.randn(10, 32, generator=generator), dim=1), dim=1)


@pytest.mark.parametrize("mode", ["argmax", "gumbel_log", "gumbel_prob_legacy"])
def test_prototypes_stay_apart_by_argmax_and_collapse_by_the_published_draw(mode):
    generator = torch.Generator().manual_seed(1)
    modes = toy_modes(generator)
    truth = float(cluster_health(modes[None], torch.ones(1, 10)).mean_cosine)
    p = F.normalize(torch.randn(1, 10, 32, generator=generator), dim=-1)
    labels = torch.zeros(100, dtype=torch.int64)
    for _ in range(1500):  # with momentum 0.99: the same distance as 15,000 steps with 0.999
        pixels = modes[torch.randint(10, (100,), generator=generator)]
        e = F.normalize(pixels + 0.02 * torch.randn(100, 32, generator=generator), dim=1)
        clusters = cluster_pixels(e, prototype_similarities(e, p), labels, labels, 1, assign=mode, generator=generator)
        p = momentum_update(p, clusters.sums, clusters.counts, momentum=0.99)
    health = cluster_health(p, clusters.counts)
    assert 0.68 < truth < 0.76
    if mode == "gumbel_prob_legacy":
        assert health.mean_cosine > 0.99
        assert bool(health.collapsed)
    else:
        assert abs(float(health.mean_cosine) - truth) < (0.02 if mode == "argmax" else 0.1)
        assert not bool(health.collapsed)


def test_k_means_start_finds_modes_where_a_random_start_gets_stuck():
    generator = torch.Generator().manual_seed(3)
    modes = toy_modes(generator)
    truth = float(cluster_health(modes[None], torch.ones(1, 10)).mean_cosine)
    p = F.normalize(torch.randn(1, 10, 32, generator=generator), dim=-1)
    labels = torch.zeros(100, dtype=torch.int64)
    for step in range(300):
        pixels = modes[torch.randint(10, (100,), generator=generator)]
        e = F.normalize(pixels + 0.02 * torch.randn(100, 32, generator=generator), dim=1)
        if step == 0:
            p = kmeans_plus_plus(e, labels, p, generator=generator).prototypes
        clusters = cluster_pixels(e, prototype_similarities(e, p), labels, labels, 1)
        p = momentum_update(p, clusters.sums, clusters.counts, momentum=0.95)
    assert abs(float(cluster_health(p, clusters.counts).mean_cosine) - truth) < 0.01
