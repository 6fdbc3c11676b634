"""How few prototypes carry a logit: against a search over all subsets, and summed over processes."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from segproto.metrics.carriers import Carriers, carriers


@pytest.mark.parametrize("part", [0.5, 0.9, 1.0])
def test_the_fewest_are_found(part: float) -> None:
    shares = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    for row, found in zip(shares, carriers(shares, part).tolist(), strict=True):
        sizes = row.abs().double()
        enough = [
            n
            for n in range(1, 6)
            if any(
                float(sizes[list(some)].sum()) >= part * float(sizes.sum()) - 1e-9 for some in combinations(range(5), n)
            )
        ]
        assert found == min(enough)


def test_equal_shares_and_zeros() -> None:
    shares = torch.tensor([[1.0, -1, 1, -1], [0, 3, 0, 0], [0, 0, 0, 0]])
    assert carriers(shares, 0.5).tolist() == [2, 1, 0]


def test_processes_add_up() -> None:
    shares = torch.randn(40, 6)
    whole, first, second = Carriers((0.5, 0.9)), Carriers((0.5, 0.9)), Carriers((0.5, 0.9))
    whole.update(shares)
    first.update(shares[:15])
    second.update(shares[15:])
    first.merge(second.state_dict())
    assert first.means() == whole.means()
    assert Carriers((0.5,)).means() == [None]
