"""Prototypes of a class from images of their own, against all assignments there are."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segproto.prototypes.distinct import RunningDistinct, one_each
from segproto.prototypes.nearest import RunningNearest

CLASS_OF, SCALE_OF = torch.tensor([0, 0, 1, 1, 1, 0]), torch.tensor([0, 0, 0, 0, 1, 1])


def seen(kind: type[RunningNearest], images: list[int], absent: int | None = None) -> RunningNearest:
    """Images of random distances; of ``absent`` only image 3 has cells."""
    running = kind(CLASS_OF, SCALE_OF, 2, 3)
    for image in images:
        g = torch.Generator().manual_seed(image)
        allowed = torch.rand(2, 4, 5, generator=g) < 0.7
        if absent is not None and image != 3:
            allowed[absent] = False
        running.update(torch.rand(6, 4, 5, generator=g), allowed, torch.rand(6, 4, 5, generator=g), image)
    return running


def assigned(running: RunningNearest) -> RunningNearest:
    assert isinstance(running, RunningDistinct)
    return running.assigned()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 5))
def test_no_assignment_is_nearer(seed: int, prototypes: int, images: int) -> None:
    """Of all ways to give each prototype an image, each used as seldom as can be, none has a smaller sum."""
    distance = np.random.default_rng(seed).random((prototypes, images)).astype(np.float32)
    order = distance.argsort(1)[:, :prototypes]
    found = one_each(np.take_along_axis(distance, order, 1), order)
    taken = order[np.arange(prototypes), found]
    most = -(-prototypes // images)
    assert np.bincount(taken).max() <= most
    ways = (way for way in product(range(images), repeat=prototypes) if np.bincount(way).max() <= most)
    best = min(sum(float(distance[p, i]) for p, i in enumerate(way)) for way in ways)
    np.testing.assert_allclose(distance[np.arange(prototypes), taken].sum(dtype=np.float64), best, rtol=1e-6)


def test_images_of_a_class_differ_and_each_cell_is_the_nearest_of_its_image() -> None:
    found = assigned(seen(RunningDistinct, [0, 1, 2, 3]))
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
    for key, value in assigned(whole).state_dict().items():
        assert torch.equal(value, assigned(first).state_dict()[key])


def test_a_class_in_one_image_shares_it_and_one_in_none_is_missing() -> None:
    found = assigned(seen(RunningDistinct, [0, 1, 2, 3], absent=1))
    assert found.image[CLASS_OF == 1].tolist() == [3, 3, 3]
    missing = assigned(seen(RunningDistinct, [0, 1, 2], absent=1))
    assert missing.missing_classes() == [1]
    assert missing.image[CLASS_OF == 1].tolist() == [-1, -1, -1]
