"""A resumed run goes on with the data it began with, or says what changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import Field
from training_tiny import recipe, train

from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.errors import ConfigError, DataError, SegprotoError
from segproto.training.data_record import DataRecord, keep_record
from segproto.training.loop import Loop
from segproto.training.recipe import Recipe

CLASSES = "classes:\n  - {name: ground, values: [0]}\n  - {name: car, values: [1]}\n"


class Tagged(Recipe):
    method: str = "tagged"
    tags: Path | None = None
    stages: dict[str, dict[str, Path]] = Field(default_factory=dict)


def make_data(root: Path) -> Path:
    generator = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
        for i in range(6):
            shape = (32, 32, 3) if folder == "images" else (32, 32)
            Image.fromarray(generator.integers(2, size=shape, dtype=np.uint8)).save(root / folder / f"{i}.png")
    (root / "classes.yaml").write_text(CLASSES)
    (root / "train.txt").write_text("0\n1\n2\n3\n")
    (root / "val.txt").write_text("4\n")
    (root / "tags.csv").write_text("0,car\n")
    return root


def record(root: Path) -> DataRecord:
    tagged = Tagged(data=DataConfig(name="folder", root=root), tags=root / "tags.csv")
    return DataRecord.of(tagged, *(build_dataset(tagged.data, split) for split in ("train", "val")))


def later(path: Path) -> None:
    """Written anew with the bytes it had."""
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))


def black(path: Path) -> None:
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)


def classes(root: Path, text: str) -> None:
    (root / "classes.yaml").write_text(text)


CHANGES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda r: (r / "train.txt").write_text("0\n1\n"), r"2 training images gone \(such as 2\)"),
    (lambda r: (r / "train.txt").write_text("0\n1\n2\n3\n5\n"), r"1 training images new \(such as 5\)"),
    (lambda r: (r / "val.txt").write_text("5\n"), r"1 validation images gone \(such as 4\); 1 validation images new"),
    (lambda r: black(r / "images" / "1.png"), r"1 training images altered \(such as 1\)"),
    (lambda r: black(r / "labels" / "4.png"), r"1 validation images altered \(such as 4\)"),
    (lambda r: later(r / "labels" / "2.png"), r"1 training images written anew, with the size they had \(such as 2\)"),
    (lambda r: classes(r, CLASSES.replace("car", "van")), r"class 1 is 'van', was 'car'"),
    (lambda r: classes(r, CLASSES.replace("ground", "g").replace("car", "ground")), "class 0 is 'g', was 'ground'"),
    (lambda r: classes(r, CLASSES + "  - {name: bus, values: [2]}\n"), "3 classes, were 2"),
    (lambda r: classes(r, CLASSES.replace("[1]", "[1, 2]")), "masks of the training images are read otherwise"),
    (lambda r: (r / "train.txt").write_text("1\n0\n2\n3\n"), "or their order is another"),
    (lambda r: (r / "tags.csv").write_text("0,car\n1,car\n"), "tags is another file"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_what_changed_is_named(change: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    root, out = make_data(tmp_path / "data"), tmp_path / "run"
    out.mkdir()
    (out / "recipe.yaml").touch()  # as a run's folder
    keep_record(out, record(root))
    keep_record(out, record(root))
    change(root)
    with pytest.raises(DataError, match=words):
        keep_record(out, record(root))
    keep_record(out, record(root), changed=True)
    keep_record(out, record(root))  # from now on these are the run's


def test_data_that_moved_are_the_same(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "recipe.yaml").touch()  # as a run's folder
    keep_record(out, record(make_data(tmp_path / "data")).model_copy(update={"files": {}}))
    (tmp_path / "data").rename(tmp_path / "moved")
    keep_record(out, record(tmp_path / "moved").model_copy(update={"files": {}}))


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('{"version": 1, "classes": 3}')
    with pytest.raises(DataError, match=r"data\.json: classes"):
        keep_record(tmp_path, record(make_data(tmp_path / "data")))


def test_files_of_data_and_weights_are_not_compared_by_their_dates(tmp_path: Path) -> None:
    root = make_data(tmp_path / "data")
    config = DataConfig(name="folder", root=root, classes=root / "classes.yaml")
    inner = {"project": {"images": root / "train.txt", "folder": root}}
    tagged = Tagged(data=config, tags=root / "tags.csv", stages=inner)
    actual = DataRecord.of(tagged, build_dataset(config, "train"), None)
    assert actual.files.keys() == {"tags", "stages.project.images"}
    assert actual.val is None


def test_a_resumed_run_refuses_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = make_data(tmp_path / "data"), tmp_path / "run"
    options = ("data.name=folder", f"data.root={root}", "stages.first_steps=4", "train.stages=[first]")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            train(out, *options)
    (root / "train.txt").write_text("0\n1\n2\n")
    with pytest.raises(SegprotoError, match=r"run: the data are no longer .* 1 training images gone \(such as 3\)"):
        train(out, *options, resume=True)
    from training_tiny import METHOD

    from segproto.training.runner import run

    assert run(METHOD, recipe(*options), out, resume=True, data_changed=True, quiet=True).figures["steps"] == 4


def test_the_flag_is_for_resuming(tmp_path: Path) -> None:
    from segproto import api

    with pytest.raises(ConfigError, match="a new run takes the data as they are"):
        api.train("blackbox/scenes", out=tmp_path / "run", data_changed=True)
