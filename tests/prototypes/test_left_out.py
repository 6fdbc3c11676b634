"""A memory asked about its own images, each left out: against loops in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segproto.prototypes.left_out import choose_balance, mean_iou_of_cells
from segproto.prototypes.retrieval import class_votes, nearest_patches, vote_shares


def test_iou_counts_cells_in_parts() -> None:
    scores = torch.eye(3)[[0, 1, 1, 0]]
    frequencies = torch.tensor([[1, 0, 0], [0.25, 0.75, 0], [1, 0, 0], [0, 1, 0]])
    weights = torch.tensor([1.0, 2.0, 1.0, 3.0])
    # class 0: right 1, answered 4, there 2.5; class 1: right 1.5, answered 3, there 4.5; class 2 is nowhere
    expected = (1 / (4 + 2.5 - 1) + 1.5 / (3 + 4.5 - 1.5)) / 2
    assert mean_iou_of_cells(scores, frequencies, weights) == pytest.approx(expected, abs=1e-12)


def poles(images: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two clusters: plain house, and patches that are a fifth to three fifths pole, the rest house."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.eye(4)[[0, 0, 0, 0, 1]].repeat(images, 1)
    keys = F.normalize(centres + 0.05 * torch.randn(centres.shape, generator=generator), dim=1)
    frequencies = torch.tensor([[1.0, 0.0]] * 4 + [[0.55, 0.45]]).repeat(images, 1)
    frequencies[4::10] = torch.tensor([0.35, 0.65])
    return keys, frequencies, torch.arange(images).repeat_interleave(5)


def test_the_better_balance_is_chosen() -> None:
    keys, frequencies, image = poles(12)
    weights = torch.ones(len(keys))
    found = nearest_patches(keys, keys, 5, (image, image))

    def measured(balance: float) -> float:
        class_weights, sums = class_votes(frequencies, balance)
        shares = vote_shares(found.similarity, 0.05)
        scores = torch.zeros(len(keys), 2, dtype=torch.float64)
        for cell in range(len(keys)):
            for n in range(5):
                patch = int(found.patch[cell, n])
                scores[cell] += shares[cell, n] / sums[patch] * frequencies[patch] * class_weights
        return mean_iou_of_cells(scores, frequencies, weights)

    assert measured(0.5) > measured(0.0) + 0.02
    assert choose_balance(keys, frequencies, image, 5, 0.05, weights) == 0.5
    pure = (frequencies == frequencies.max(1, keepdim=True).values).float()
    assert choose_balance(keys, pure, image, 5, 0.05, weights) == 0.0  # equal: as published
    assert choose_balance(keys, frequencies, torch.zeros_like(image), 5, 0.05, weights) == 0.0  # nothing to ask
