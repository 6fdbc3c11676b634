"""Prototypes of a class from images of their own, against all assignments there are."""

from __future__ import annotations

from itertools import permutations
from typing import TypeVar

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segproto.prototypes.distinct import RunningDistinct, one_each
from segproto.prototypes.nearest import RunningNearest

CLASS_OF, SCALE_OF = torch.tensor([0, 0, 1, 1, 1, 0]), torch.tensor([0, 0, 0, 0, 1, 1])


Kind = TypeVar("Kind", RunningNearest, RunningDistinct)


def seen(kind: type[Kind], images: list[int], absent: int | None = None) -> Kind:
    """Images of random distances; of ``absent`` only image 3 has cells."""
    running = kind(CLASS_OF, SCALE_OF, 2, 3)
    for image in images:
        g = torch.Generator().manual_seed(image)
        allowed = torch.rand(2, 4, 5, generator=g) < 0.7
        if absent is not None and image != 3:
            allowed[absent] = False
        running.update(torch.rand(6, 4, 5, generator=g), allowed, torch.rand(6, 4, 5, generator=g), image)
    return running


def candidates(seed: int, prototypes: int, images: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Of random distances those to as many nearest images as there are prototypes, and these images."""
    distance = np.random.default_rng(seed).random((prototypes, images)).astype(np.float32)
    order = distance.argsort(1)[:, :prototypes]
    return np.take_along_axis(distance, order, 1), order


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(0, 2))
def test_no_other_images_are_nearer(seed: int, prototypes: int, more: int) -> None:
    """Of all ways to give each prototype an image of its own, none has a smaller sum of distances."""
    distance, order = candidates(seed, prototypes, prototypes + more)
    taken = order[np.arange(prototypes), one_each(distance, order, np.zeros(prototypes, int))]
    full = np.random.default_rng(seed).random((prototypes, prototypes + more)).astype(np.float32)
    ways = permutations(range(prototypes + more), prototypes)
    best = min(sum(float(full[p, i]) for p, i in enumerate(way)) for way in ways)
    assert len(set(taken)) == prototypes
    np.testing.assert_allclose(full[np.arange(prototypes), taken].sum(dtype=np.float64), best, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 11), st.integers(1, 3))
def test_all_of_too_few_images_are_taken_and_none_twice_by_a_scale(
    seed: int, prototypes: int, images: int, scales: int
) -> None:
    distance, order = candidates(seed, prototypes, images)
    scale = np.sort(np.arange(prototypes) % scales)
    taken = order[np.arange(prototypes), one_each(distance, order, scale)]
    uses = np.bincount(taken, minlength=images)
    assert (uses > 0).sum() == min(prototypes, images)
    for s in range(scales):
        own = taken[scale == s]
        assert np.bincount(own, minlength=1).max() <= -(-len(own) // images)


def test_images_of_a_class_differ_and_each_cell_is_the_nearest_of_its_image() -> None:
    found = seen(RunningDistinct, [0, 1, 2, 3]).found()
    for c in (0, 1):
        own = found.image[c == CLASS_OF].tolist()
        assert len(set(own)) == len(own) == 3
    for p in range(6):
        alone = seen(RunningNearest, [int(found.image[p])])
        for key in ("distance", "cell", "grid", "feature"):
            assert torch.equal(getattr(found, key)[p], getattr(alone, key)[p])
    assert not torch.equal(found.image, seen(RunningNearest, [0, 1, 2, 3]).image)


def test_other_processes_and_other_orders_change_nothing() -> None:
    whole, first, second = (seen(RunningDistinct, images) for images in ([0, 1, 2, 3, 4], [4, 1], [3, 0, 2]))
    first.merge(second.state_dict())
    for key, value in whole.found().state_dict().items():
        assert torch.equal(value, first.found().state_dict()[key])


def test_a_class_in_one_image_shares_it_and_one_in_none_is_missing() -> None:
    found = seen(RunningDistinct, [0, 1, 2, 3], absent=1).found()
    assert found.image[CLASS_OF == 1].tolist() == [3, 3, 3]
    missing = seen(RunningDistinct, [0, 1, 2], absent=1).found()
    assert missing.missing_classes() == [1]
    assert missing.image[CLASS_OF == 1].tolist() == [-1, -1, -1]
