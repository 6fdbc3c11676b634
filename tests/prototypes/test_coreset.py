"""Coresets of a memory: real patches, chosen where the others err."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.prototypes.coreset import gain_of_each, spread_subset, subset_by_errors
from segproto.prototypes.retrieval import nearest_patches, vote_shares


def test_gain_is_that_of_plain_loops() -> None:
    torch.manual_seed(0)
    patch, votes = torch.randint(9, (5, 3)), torch.rand(5, 3)
    frequencies, truth, right = torch.rand(9, 4).softmax(1), torch.rand(5, 4).softmax(1), torch.rand(5)
    wanted = torch.zeros(9)
    for q in range(5):
        for j in range(3):
            better = sum(float(frequencies[patch[q, j], c] * truth[q, c]) for c in range(4)) - float(right[q])
            wanted[patch[q, j]] += (1 - float(right[q])) * float(votes[q, j]) * better
    torch.testing.assert_close(gain_of_each(patch, votes, frequencies, truth, right), wanted)


def striped(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points of one quarter circle in six stripes of two classes, of which the first two take most of it."""
    angle = torch.rand(count, generator=torch.Generator().manual_seed(seed)) * 1.5
    stripe = torch.bucketize(angle, torch.tensor([0.6, 1.2, 1.28, 1.34, 1.42]))
    return torch.stack([angle.cos(), angle.sin()], 1), F.one_hot(stripe % 2, 2).float()


def accuracy(keys: Tensor, frequencies: Tensor, kept: Tensor, seed: int) -> float:
    queries, truth = striped(1000, seed)
    found = nearest_patches(queries, keys[kept], 3)
    scores = (vote_shares(found.similarity, 0.001)[:, :, None] * frequencies[kept][found.patch]).sum(1)
    return float((scores.argmax(1) == truth.argmax(1)).float().mean())


def test_patches_where_the_others_err_answer_more_than_evenly_spread_ones() -> None:
    keys, frequencies = striped(2000, 1)
    image = torch.arange(2000) % 10
    by_errors = subset_by_errors(keys, frequencies, image, 30, k=3, temperature=0.001)
    spread = spread_subset(keys, frequencies.max(1).indices, 30)
    assert accuracy(keys, frequencies, by_errors, 2) > accuracy(keys, frequencies, spread, 2)
    assert len(by_errors) == 30
    assert bool((by_errors.diff() > 0).all())  # each patch once


def test_one_image_has_nothing_to_be_answered_by_and_is_spread() -> None:
    keys, frequencies = striped(200, 1)
    found = subset_by_errors(keys, frequencies, torch.zeros(200, dtype=torch.int64), 20, k=3, temperature=0.01)
    assert torch.equal(found, spread_subset(keys, frequencies.max(1).indices, 20))


def test_two_images_of_few_patches_each_are_no_trouble() -> None:
    keys, frequencies = striped(8, 1)
    found = subset_by_errors(keys, frequencies, torch.arange(8) // 4, 7, k=30, temperature=0.01)
    assert len(found) == 7
