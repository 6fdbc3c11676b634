"""Otsu's rule against a loop over all thresholds."""

from __future__ import annotations

import pytest
import torch

from segproto.refine.otsu import otsu_threshold


def by_loop(values: list[float], bins: int) -> float:
    """The limit of bins with the largest variance between the two sides, by their plain means."""
    centres = [(min(int(v * bins), bins - 1) + 0.5) / bins for v in values]
    best, found = -1.0, 0.0
    for limit in range(1, bins):
        low = [c for c in centres if c < limit / bins]
        high = [c for c in centres if c > limit / bins]
        if low and high:
            apart = len(low) * len(high) * (sum(low) / len(low) - sum(high) / len(high)) ** 2
            if apart > best * (1 + 1e-9):
                best, found = apart, limit / bins
    return found


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_best_of_all_limits(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    values = torch.cat([torch.rand(200, generator=g) * 0.6, 0.3 + torch.rand(80, generator=g) * 0.7])
    counts = torch.histc(values, 20, 0, 1)
    assert otsu_threshold(counts) == pytest.approx(by_loop(values.tolist(), 20))


def test_two_heaps_are_parted_in_the_middle_of_the_gap() -> None:
    counts = torch.zeros(100)
    counts[20], counts[60] = 5, 9
    assert otsu_threshold(counts) == pytest.approx(0.41, abs=0.011)


@pytest.mark.parametrize("counts", [[0, 0, 0], [0, 7, 0]])
def test_one_heap_has_no_threshold(counts: list[int]) -> None:
    assert otsu_threshold(torch.tensor(counts)) is None
