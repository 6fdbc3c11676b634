"""Few training images: a fraction of them, or as many as show each class."""

from __future__ import annotations

import numpy as np
import pytest

from segproto.data.build import build_dataset
from segproto.data.config import DataConfig, ScenesConfig
from segproto.data.subset import class_presence, until_each_class

SCENES = ScenesConfig(size=32, num_train=40, num_val=5)


def config(**settings: float) -> DataConfig:
    return DataConfig(name="scenes", scenes=SCENES, **settings)


def test_a_larger_fraction_holds_a_smaller_one_and_validation_stays_whole() -> None:
    quarter, half = (build_dataset(config(fraction=f), "train") for f in (0.25, 0.5))
    assert (len(quarter), len(half)) == (10, 20)
    assert set(quarter.names) < set(half.names)
    assert len(build_dataset(config(fraction=0.25), "val")) == 5
    other = build_dataset(config(fraction=0.25, subset_seed=1), "train")
    assert set(other.names) != set(quarter.names)
    assert other.fingerprint != quarter.fingerprint


@pytest.mark.parametrize("count", [1, 3])
def test_every_class_is_shown_so_often(count: int) -> None:
    whole = class_presence(build_dataset(config(), "train")).sum(0)
    chosen = build_dataset(config(images_per_class=count), "train")
    shown = class_presence(chosen).sum(0)
    assert (shown >= np.minimum(whole, count)).all()
    assert len(chosen) <= count * len(whole)
    more = build_dataset(config(images_per_class=count + 1), "train")
    assert set(chosen.names) <= set(more.names)


def test_first_rows_of_each_class() -> None:
    presence = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], bool)
    assert until_each_class(presence, 1).tolist() == [0, 2]
    assert until_each_class(presence, 2).tolist() == [0, 1, 2, 3]
