"""The map over images: every image once, whole files, shared between processes, and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from segproto.data.base import Sample
from segproto.data.config import ScenesConfig
from segproto.data.scenes import ScenesDataset
from segproto.training.procedures.map_images import (
    AHEAD,
    fold_images,
    fold_samples,
    load_result,
    map_images,
    result_path,
)

DATA = ScenesDataset(ScenesConfig(num_train=7, num_val=1, size=32), "train")


def describe(index: int, sample: Sample) -> dict[str, Tensor]:
    return {"index": torch.tensor(index), "mean": sample.image.float().mean()}


def test_processes_share_the_images_without_overlap() -> None:
    shares = [list(fold_images(DATA, rank=rank, world=3)) for rank in range(3)]
    assert sorted(index for own in shares for index in own) == list(range(7))
    assert list(fold_images(DATA)) == list(range(7))


def test_samples_are_read_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    whole = ScenesDataset.__getitem__
    monkeypatch.setattr(ScenesDataset, "__getitem__", lambda data, index: read.append(index) or whole(data, index))
    for index, sample in fold_samples(DATA, rank=1, world=2):
        assert sample.name == DATA.names[index]
        assert len(read) <= index // 2 + 1 + AHEAD + 1  # a few before they are needed
    assert read == [1, 3, 5]


def test_every_image_gets_its_file(tmp_path: Path) -> None:
    done = [map_images(DATA, describe, tmp_path, rank=rank, world=2) for rank in range(2)]
    assert done == [4, 3]
    for index, name in enumerate(DATA.names):
        result = load_result(tmp_path, name, {"index", "mean"})
        assert int(result["index"]) == index
        assert torch.equal(result["mean"], DATA[index].image.float().mean())


def test_an_interrupted_map_goes_on_where_it_was(tmp_path: Path) -> None:
    def failing(index: int, sample: Sample) -> dict[str, Tensor]:
        if index == 4:
            raise KeyboardInterrupt
        return describe(index, sample)

    with pytest.raises(KeyboardInterrupt):
        map_images(DATA, failing, tmp_path)
    assert [result_path(tmp_path, n).exists() for n in DATA.names] == [True] * 4 + [False] * 3
    assert map_images(DATA, describe, tmp_path) == 3
    assert map_images(DATA, describe, tmp_path) == 0
    assert all(not p.name.startswith(".") for p in tmp_path.rglob("*"))
