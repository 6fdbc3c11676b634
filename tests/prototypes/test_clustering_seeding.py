"""Where prototypes start, new places for dead ones, and the health figures."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from segproto.prototypes.health import cluster_health, dead_prototypes
from segproto.prototypes.seeding import (
    classifier_prototypes,
    first_pixels,
    kmeans_plus_plus,
    random_prototypes,
    reseed_dead,
)


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def test_random_and_classifier_starts_are_unit_and_seeded():
    a = random_prototypes(3, 4, 8, generator=torch.Generator().manual_seed(0))
    b = random_prototypes(3, 4, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(a, b)
    weight = torch.randn(3, 8, 1, 1)
    c = classifier_prototypes(weight, 4)
    direction = F.normalize(weight.flatten(1), dim=1)
    assert (c * direction[:, None]).sum(-1).min() > 0.98
    assert (c @ c.transpose(1, 2)).tril(-1).max() < 1 - 1e-4
    for p in (a, c):
        torch.testing.assert_close(p.norm(dim=-1), torch.ones(3, 4))


def test_first_pixels_are_the_first_of_each_class():
    labels = torch.tensor([1, 255, 0, 1, 1, 0, 7, 1, 0, -1])
    expected = [i for i, c in enumerate(labels.tolist()) if c in (0, 1) and labels[:i].tolist().count(c) < 2]
    assert first_pixels(labels, 2, 2).nonzero().flatten().tolist() == expected
    assert not first_pixels(labels[:0], 2, 2).any()


def test_kmeans_plus_plus_finds_separate_modes_in_every_class():
    modes = unit(6, 5, 32)
    labels = torch.arange(6).repeat(200)
    which = torch.randint(5, (1200,), generator=torch.Generator().manual_seed(0))
    e = F.normalize(modes[labels, which] + 0.002 * unit(1200, 32), dim=1)
    labels[::7] = 255
    seeds = kmeans_plus_plus(e, labels, unit(6, 5, 32, seed=1), generator=torch.Generator().manual_seed(2))
    assert bool(seeds.placed.all())
    nearest = (seeds.prototypes @ modes.transpose(1, 2)).argmax(2)
    assert all(sorted(row) == [0, 1, 2, 3, 4] for row in nearest.tolist())
    same = seeds.prototypes.flatten(0, 1) @ e.T
    for row, p in enumerate(same):
        best = int(p.argmax())
        assert p[best] > 1 - 1e-12
        assert labels[best] == row // 5


def test_kmeans_plus_plus_draws_by_squared_distance():
    angles = torch.tensor([0.0, 0.5, 1.5])
    e = torch.stack([angles.cos(), angles.sin()], 1).double()
    draws = 2500
    many = e.repeat(draws, 1)
    labels = torch.arange(draws).repeat_interleave(3)
    seeds = kmeans_plus_plus(
        many, labels, unit(draws, 2, 2), generator=torch.Generator().manual_seed(0), ignore_index=-1
    )
    first = (seeds.prototypes[:, 0] @ e.T).argmax(1)
    second = (seeds.prototypes[:, 1] @ e.T).argmax(1)
    fraction = torch.bincount(first, minlength=3) / draws
    torch.testing.assert_close(fraction, torch.full((3,), 1 / 3), rtol=0, atol=0.03)
    counts = torch.bincount(second[first == 0], minlength=3)
    weight = ((e - e[0]) ** 2).sum(1)
    torch.testing.assert_close(counts / counts.sum(), (weight / weight.sum()).float(), rtol=0, atol=0.04)


def test_kmeans_plus_plus_keeps_the_rest_where_pixels_run_out():
    start = unit(4, 3, 8)
    e = unit(5, 8, seed=1)
    e[1] = e[0]
    labels = torch.tensor([0, 0, 0, 1, 255])  # class 0: two distinct pixels; class 1: one; class 2, 3: none
    seeds = kmeans_plus_plus(e, labels, start)
    assert seeds.placed.tolist() == [[True, True, False], [True, False, False], [False] * 3, [False] * 3]
    torch.testing.assert_close(seeds.prototypes[~seeds.placed], start[~seeds.placed])
    assert torch.equal(kmeans_plus_plus(e[:0], labels[:0], start).placed, torch.zeros(4, 3, dtype=torch.bool))


def test_reseed_takes_the_farthest_correct_pixels_one_after_another():
    e, labels = unit(60, 6), torch.arange(60) % 3
    predictions = torch.where(torch.arange(60) % 4 == 0, (labels + 1) % 3, labels)
    labels[5] = 255
    p = unit(3, 4, 6, seed=3)
    dead = torch.tensor([[False, True, False, True], [False] * 4, [True, True, True, True]])
    seeds = reseed_dead(p, dead, e, labels, predictions)
    assert torch.equal(seeds.placed, dead)
    assert torch.equal(seeds.prototypes[~dead], p[~dead])
    for c in range(3):
        pixels = [i for i in range(60) if labels[i] == c and predictions[i] == c]
        living = [p[c, k] for k in range(4) if not dead[c, k]]
        for k in range(4):
            if not dead[c, k]:
                continue
            if living:
                nearest = [max(float(e[i] @ v) for v in living) for i in pixels]
                expected = e[pixels[nearest.index(min(nearest))]]
            else:
                expected = e[pixels[0]]
            torch.testing.assert_close(seeds.prototypes[c, k], expected, rtol=0, atol=1e-12)
            living.append(expected)


def test_reseed_leaves_a_prototype_without_a_pixel_to_go_to():
    p = unit(2, 2, 4)
    dead = torch.tensor([[False, True], [True, True]])
    e, labels = p[0, :1], torch.tensor([0])  # the only pixel of class 0 is where its living prototype is
    seeds = reseed_dead(p, dead, e, labels, labels)
    assert not seeds.placed.any()
    assert torch.equal(seeds.prototypes, p)


def test_health_equals_loops():
    p, counts = unit(3, 4, 8) * 3, torch.tensor([[1.0, 2, 3, 4], [0, 0, 0, 0], [0, 0, 9, 0]])
    p[2] = p[2, :1] + 0.001 * unit(4, 8)
    health = cluster_health(p, counts)
    for c in range(3):
        cosines = [float(F.cosine_similarity(p[c, a], p[c, b], dim=0)) for a in range(4) for b in range(a)]
        assert abs(float(health.mean_cosine[c]) - sum(cosines) / 6) < 1e-9
    usage = [0.1, 0.2, 0.3, 0.4]
    assert health.usage[0].tolist() == pytest.approx(usage)
    assert float(health.entropy[0]) == pytest.approx(-sum(u * math.log(u) for u in usage) / math.log(4))
    assert math.isnan(float(health.entropy[1]))
    assert float(health.entropy[2]) == 0
    assert health.collapsed.tolist() == [False, False, True]
    single = cluster_health(p[:, :1], counts[:, :1])
    assert single.entropy[[0]].tolist() == [1.0]
    assert not single.collapsed.any()


def test_dead_are_the_unused_and_later_twins():
    p = unit(3, 3, 8)
    p[1, 2] = p[1, 0]
    counts = torch.tensor([[5.0, 0, 5], [3, 3, 3], [0, 0, 0]])
    expected = [[False, True, False], [False, False, True], [False] * 3]
    assert dead_prototypes(p, counts).tolist() == expected
    counts[0, 1] = 0.2
    assert dead_prototypes(p, counts, min_share=0.1)[0].tolist() == [False, True, False]
