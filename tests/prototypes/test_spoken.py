"""What parts say, and for whom, against loops."""

from __future__ import annotations

import torch

from segproto.prototypes.spoken import most_of_all, spoken_for


def test_a_part_speaks_for_the_class_whose_cells_it_adds_most_to() -> None:
    generator = torch.Generator().manual_seed(0)
    strengths, answers = torch.rand(40, 6, generator=generator), torch.arange(40) % 3  # nothing is answered with 3
    shares = torch.randn(4, 6, generator=generator)
    strengths[:, 5] = 0
    sums = torch.stack([strengths[answers == c].sum(0) for c in range(4)])
    found = spoken_for(sums, torch.bincount(answers, minlength=4), shares)
    for p in range(5):
        added = [float((strengths[answers == c, p] * (shares[c, p] - shares[:, p].mean())).mean()) for c in range(3)]
        assert int(found[p]) == (added.index(max(added)) if max(added) > 0 else int(shares[:, p].argmax()))
    assert int(found[5]) == int(shares[:, 5].argmax())  # fires nowhere: the largest weight is all there is


def test_a_large_weight_for_a_class_at_which_it_never_fires_does_not_count() -> None:
    shares = torch.tensor([[3.0], [2.0], [0.0]])
    assert int(spoken_for(torch.tensor([[0.0], [5.0], [1.0]]), torch.tensor([4, 4, 4]), shares)) == 1


def test_the_fewest_that_make_up_a_share() -> None:
    sizes = torch.tensor([1.0, 5.0, 0.0, 3.0, 1.0])
    assert most_of_all(sizes, 0.5).tolist() == [False, True, False, False, False]
    assert most_of_all(sizes, 0.8).tolist() == [False, True, False, True, False]
    assert most_of_all(sizes, 0.81).tolist() == [True, True, False, True, False]
    assert most_of_all(sizes, 1.0).all()
