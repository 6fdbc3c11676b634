"""Runs and results where something is missing, broken or elsewhere: files, folders, processes, devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_tiny
from PIL import Image
from tiny_segmenters import segmenter

from segproto import api
from segproto.data.base import Sample, SegmentationDataset
from segproto.data.subset import Subset
from segproto.errors import ConfigError, DataError, SegprotoError
from segproto.evaluation.validate import validate
from segproto.model import artefact
from segproto.training.devices import on_first
from segproto.training.runner import screened


@pytest.fixture(scope="module")
def run(blackbox_run: Path) -> Path:
    return blackbox_run


def broken_folder(root: Path) -> Path:
    """Eight images of two classes; the training image 3 is cut off."""
    generator = np.random.default_rng(0)
    for sub in ("images", "labels"):
        (root / sub).mkdir(parents=True)
    for i in range(8):
        Image.fromarray(generator.integers(0, 255, (32, 32, 3), np.uint8)).save(root / "images" / f"{i}.png")
        Image.fromarray(generator.integers(0, 2, (32, 32), np.uint8)).save(root / "labels" / f"{i}.png")
    (root / "images" / "3.png").write_bytes(b"\x89PNG cut off")
    (root / "classes.yaml").write_text("classes: [a, b]\nsplit: {val_list: val.txt}\n")
    (root / "val.txt").write_text("0\n1\n")
    return root


def test_an_unreadable_training_image_is_left_out_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[SegmentationDataset] = []
    from segproto.training import runner

    monkeypatch.setattr(runner, "procedure", lambda job, stage: seen.append(job.train_set) or {})
    data = ["data.name=folder", f"data.root={broken_folder(tmp_path / 'data')}", "data.on_error=skip"]
    cached = ["train.cache_features=true", "encoder.frozen=true", "data.augment.crop=null", "data.augment.scale=[1,1]"]
    steps = ["stages.first_steps=2", "stages.second_steps=2"]
    with pytest.warns(UserWarning, match=r"3\.png") as warned:
        training_tiny.train(tmp_path / "out", *data, *cached, *steps)
    assert len([w for w in warned if "3.png" in str(w.message)]) == 1
    (train_set,) = seen
    assert sorted(train_set.names) == ["2", "4", "5", "6", "7"]
    assert [train_set[i].name for i in range(5)] == list(train_set.names)
    assert isinstance(train_set, Subset)
    assert train_set.fingerprint != train_set.whole.fingerprint
    with pytest.raises(DataError, match=r"3\.png"):
        training_tiny.train(tmp_path / "fail", *data[:2], *cached, *steps)


def test_no_readable_image_at_all(tmp_path: Path) -> None:
    class Broken(SegmentationDataset):
        names, split = ("a", "b"), "train"
        fingerprint = "x"  # type: ignore[assignment]

        def __getitem__(self, index: int) -> Sample:
            raise DataError(self.names[index])

    with pytest.warns(UserWarning, match="left out"), pytest.raises(DataError, match="none of the 2 train images"):
        screened(Broken(), Ranks(0, world=1), training_tiny_reporter())  # type: ignore[arg-type]


def training_tiny_reporter() -> Any:
    from segproto.training.progress import Reporter

    return Reporter(active=False)


def test_masks_that_are_all_void_are_refused() -> None:
    model = segmenter("linear")

    class Void(SegmentationDataset):
        names, split, classes = ("a",), "val", model.classes
        fingerprint = "x"  # type: ignore[assignment]

        def __getitem__(self, index: int) -> Sample:
            blank = torch.zeros(3, 24, 24, dtype=torch.uint8)
            return Sample(blank, torch.full((24, 24), 255, dtype=torch.uint8), "a")

    with pytest.raises(DataError, match="no labelled pixel in the validation images"):
        validate(model, Void())


def test_a_model_left_under_its_old_name_is_found(tmp_path: Path) -> None:
    api_model = api.load(train_copy(tmp_path))
    (tmp_path / "run" / "model").rename(tmp_path / "run" / ".model.old")
    for name in ("run", "run/model"):
        model = api.load(tmp_path / name)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), api_model.parameters(), strict=True))
    api_model.save(tmp_path / "run" / "model")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["model"]


def test_both_mean_and_std_come_from_the_artefact(tmp_path: Path) -> None:
    folder = train_copy(tmp_path) / "model"
    value = json.loads((folder / "model.json").read_text())
    value["preprocessing"]["std"] = [0.1, 0.2, 0.3]
    (folder / "model.json").write_text(json.dumps(value))
    (folder / "SHA256SUMS").unlink()
    assert artefact.load(folder).encoder.normalisation.std == (0.1, 0.2, 0.3)


def train_copy(folder: Path) -> Path:
    """A folder with the tiny method's untrained model in ``model/``."""
    from segproto.data.scenes import ScenesDataset

    recipe = training_tiny.recipe()
    model = training_tiny.build(recipe, ScenesDataset(recipe.data.scenes, "val").classes)
    model.save(folder / "run" / "model")
    return folder / "run"


class Ranks:
    """A fabric of ``world`` processes whose first says ``message``."""

    def __init__(self, rank: int, world: int = 2) -> None:
        self.global_rank, self.world_size, self.message = rank, world, "unset"

    def broadcast(self, value: Any) -> Any:
        self.message = value
        return value if self.global_rank == 0 else "disk on fire"


def test_any_error_of_the_first_process_reaches_the_others() -> None:
    def burn() -> None:
        raise ZeroDivisionError("disk on fire")

    first = Ranks(0)
    with pytest.raises(ZeroDivisionError):
        on_first(first, burn)  # type: ignore[arg-type]
    assert first.message == "disk on fire"
    with pytest.raises(SegprotoError, match="disk on fire"):
        on_first(Ranks(1), burn)  # type: ignore[arg-type]


def test_only_the_run_s_own_figures_become_its_evaluation(run: Path) -> None:
    other = [
        {"overrides": ["data.scenes.num_val=2"]},
        {"data": {"scenes": {"num_val": 2}}},
        {"flip": True},
        {"window": 32},
        {"scales": (1.0, 0.5)},
    ]
    for options in other:
        assert "file" not in api.evaluate(run, **options)  # type: ignore[arg-type]
    assert "file" not in api.evaluate(run / "stages" / "joint")
    assert "file" not in api.evaluate(run / "stages" / "joint" / "model")
    assert not (run / "evaluation").exists()
    assert api.evaluate(run, stage="joint", device="cpu")["file"] == str(run / "evaluation" / "val-joint.json")
    assert api.evaluate(run)["file"] == str(run / "evaluation" / "val.json")


def test_an_unknown_device_is_refused(run: Path, tmp_path: Path) -> None:
    for device in ("gpu", "cuda:99"):
        for call in (
            lambda d: api.evaluate(run, device=d),
            lambda d: api.predict(run, run, out=tmp_path, device=d),
            lambda d: api.explain(run, np.zeros((32, 32, 3), np.uint8), device=d),
            lambda d: api.write_report(run, device=d),
        ):
            with pytest.raises((ConfigError, DataError), match=f"device = {device}|no image"):
                call(device)


def test_resume_takes_only_settings_that_change_nothing(run: Path) -> None:
    assert api.train(resume=run, overrides=["data.workers=1", "train.log_every=5"], quiet=True).was_finished
    with pytest.raises(ConfigError, match=r"train\.seed = 5"):
        api.train(resume=run, overrides=["train.seed=5"], quiet=True)


def test_a_resumed_run_goes_on_to_its_second_recipe(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segproto.runs import following
    from segproto.training import runner

    first, calls = runner.run, list[Path]()

    def spy(method: Any, recipe: Any, out: Path, **options: Any) -> Any:
        return first(method, recipe, out, **options) if out == run else calls.append(out)

    monkeypatch.setattr(runner, "run", spy)
    monkeypatch.setattr(following, "following", lambda _name, method, recipe, _out: following.Following(method, recipe))
    api.train(resume=run, quiet=True)
    assert calls == [run / "then"]


def test_resume_on_the_command_line_takes_settings(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from segproto.cli.app import app

    words = ["train", "--resume", str(run), "data.workers=1", "train.log_every=5", "--quiet"]
    assert CliRunner().invoke(app, words).exit_code == 0
    refused = CliRunner().invoke(app, ["train", "--resume", str(run), "train.seed=5"])
    assert isinstance(refused.exception, ConfigError)


def test_a_class_without_a_cell_says_how_to_go_on() -> None:
    from segproto.training.procedures.projection import require_found

    class Nothing:
        def missing_classes(self) -> list[int]:
            return [0]

    with pytest.raises(DataError, match="--start OUT/stages/joint/model"):
        require_found(segmenter("prototypes"), Nothing())  # type: ignore[arg-type]
