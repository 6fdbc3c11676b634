"""The runner on a tiny method: what a run leaves, what it refuses, and that nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from training_tiny import METHOD, train, weights

import segproto.training.checkpoint as checkpoint
from segproto.errors import ConfigError, SegprotoError, WeightsError
from segproto.files import hold
from segproto.model.segmenter import Segmenter
from segproto.training.config import TrainConfig
from segproto.training.devices import loading_processes
from segproto.training.loop import Meter

SHORT = ("stages.first_steps=2", "stages.second_steps=2")


def test_what_a_run_leaves(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = train(out, "train.validate_every=2")
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoints",
        "data.json",
        "metrics.jsonl",
        "model",
        "recipe.yaml",
        "stages",
    ]
    assert list(result.stages) == ["first", "shift", "second"]
    for name, figures in result.stages.items():
        assert json.loads((out / "stages" / name / "result.json").read_text()) == json.loads(json.dumps(figures))
        assert 0 <= figures["miou"] <= figures["accuracy"] <= 1
        Segmenter.load(out / "stages" / name / "model")
    assert result.stages["shift"]["shifted"] == 0.5
    assert result.figures == result.stages["second"]
    assert weights(out / "model") == weights(out / "stages/second/model")
    card = Segmenter.load(out / "model").card
    assert (card["method"], card["stage"], card["miou"]) == ("tiny", "second", result.figures["miou"])
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    best = max(row["val_miou"] for row in rows if row["stage"] == "second" and "val_miou" in row)
    Segmenter.load(out / "checkpoints/best")
    assert best >= result.figures["miou"]
    assert {"time", "stage", "step", "loss", "doubled", "lr", "images_per_s", "waiting"} <= rows[0].keys()
    assert yaml.safe_load((out / "recipe.yaml").read_text())["train"]["validate_every"] == 2
    first = [row["lr"] for row in rows if row["stage"] == "first" and "lr" in row]
    expected = [0.01 * (1 - t / 6) ** 0.9 * min(1, (t + 1) / 2) for t in range(6)]
    assert first == pytest.approx(expected)


def test_a_run_is_a_function_of_its_recipe(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tmp_path / name, *SHORT, f"train.seed={seed}")
    assert weights(tmp_path / "a/model") == weights(tmp_path / "b/model")
    assert weights(tmp_path / "a/model") != weights(tmp_path / "c/model")


def test_another_run_is_not_overwritten(tmp_path: Path) -> None:
    train(tmp_path, *SHORT)
    before = weights(tmp_path / "model")
    with pytest.raises(SegprotoError, match=r"holds another run .*`segproto train --resume "):
        train(tmp_path, *SHORT)
    assert weights(tmp_path / "model") == before


def test_bad_data_leaves_no_run_behind(tmp_path: Path) -> None:
    with pytest.raises(SegprotoError, match="root"):
        train(tmp_path / "run", "data={name: folder, root: nowhere}")
    assert not (tmp_path / "run").exists()


def test_stages_are_chosen_by_name_and_start_is_not_resume(tmp_path: Path) -> None:
    train(tmp_path / "one", *SHORT, "train.stages=[first]")
    start = f"train.start={tmp_path / 'one'}"
    result = train(tmp_path / "two", *SHORT, "train.stages=[shift]", start)
    assert list(result.stages) == ["shift"]
    one, two = Segmenter.load(tmp_path / "one"), Segmenter.load(tmp_path / "two")
    assert torch.equal(two.head.bias, one.head.bias + 0.5)
    assert torch.equal(two.head.weight, one.head.weight)
    with pytest.raises(ConfigError, match=r"train.stages: 'frist' is no stage of tiny; did you mean first\?"):
        train(tmp_path / "three", "train.stages=[frist]")
    with pytest.raises(ConfigError, match="no stage is left"):
        train(tmp_path / "three", "train.stages=[first]", "stages.first_steps=0")
    with pytest.raises(WeightsError, match=r"train.start = .*encoder.dim = 4, the recipe 8; set encoder.dim=4"):
        train(tmp_path / "three", start, "encoder.dim=8")
    assert not (tmp_path / "three").exists()


def test_accumulation_is_a_larger_batch(tmp_path: Path) -> None:
    options = ("train.stages=[first]", "stages.noise=0", "stages.norms=false", "stages.optimizer=sgd")
    options += ("data.augment.scale=[1, 1]",)  # no padding, hence no void: the mean over a batch is a mean of means
    train(tmp_path / "a", *options, "stages.first_steps=4", "stages.accumulate=2", "train.batch_size=2")
    train(tmp_path / "b", *options, "stages.first_steps=2", "stages.accumulate=1", "train.batch_size=4")
    a, b = (Segmenter.load(tmp_path / name).state_dict() for name in "ab")
    for key, value in a.items():
        assert torch.allclose(value, b[key], atol=1e-5), key


def test_a_diverged_loss_is_named_and_the_checkpoint_kept(tmp_path: Path) -> None:
    options = ("stages.lr=1e12", "stages.accumulate=1", "stages.norms=false", "train.checkpoint_every=1")
    with pytest.raises(SegprotoError, match=r"stage first, step \d+: the loss is not a finite number; .* is kept"):
        train(tmp_path, *options)
    kept = checkpoint.latest(tmp_path / "checkpoints")
    assert kept is not None
    Segmenter.load(kept / "model")


def test_two_processes_in_one_run(tmp_path: Path) -> None:
    """Whoever comes second, to start or to resume, is told who is there and changes nothing."""
    words = f"process {os.getpid()} on .* is at work there; wait for its end, or stop it"
    with hold(tmp_path / "run"), pytest.raises(SegprotoError, match=words):
        train(tmp_path / "run", *SHORT)
    assert not (tmp_path / "run").exists()
    train(tmp_path / "run", *SHORT)
    assert not (tmp_path / "run" / ".lock").exists()
    last = tmp_path / "run" / "checkpoints" / "finished.json"
    with hold(tmp_path / "run"):
        assert train(tmp_path / "run", *SHORT, resume=True).was_finished  # nothing is written
        last.rename(tmp_path / "finished.json")
        with pytest.raises(SegprotoError, match=words):
            train(tmp_path / "run", *SHORT, resume=True)
    assert not last.exists()


@pytest.mark.parametrize("name", ["masks", "evaluation"])
def test_a_folder_with_what_a_run_would_write_is_not_free(tmp_path: Path, name: str) -> None:
    (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(SegprotoError, match=rf"holds another run \({name}\)"):
        train(tmp_path / "run", *SHORT)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]
    (tmp_path / "file").touch()
    with pytest.raises(SegprotoError, match="file: is a file; name a folder"):
        train(tmp_path / "file", *SHORT)


@pytest.mark.parametrize("failing", ["segproto.files.writing.sync_tree", "segproto.training.checkpoint.fill_tensors"])
def test_a_full_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    whole = tmp_path / "whole"
    train(whole)
    module, _, name = failing.rpartition(".")
    original, calls = getattr(sys.modules[module], name), []

    def full(*arguments: Any) -> None:
        calls.extend([1] * (name != "sync_tree" or (arguments[0] / "state.json").exists()))
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*arguments)

    monkeypatch.setattr(failing, full)
    with pytest.raises(SegprotoError, match=r"disk is full; the checkpoint 000-000000004 is intact: .*--resume"):
        train(tmp_path / "full")
    assert [p.name for p in (tmp_path / "full/checkpoints").iterdir()] == ["000-000000004"]
    monkeypatch.undo()
    train(tmp_path / "full", resume=True)
    assert weights(tmp_path / "full/model") == weights(whole / "model")


def test_patience_ends_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    import training_tiny

    def impatient(config: Any) -> list[Any]:
        first, *rest = training_tiny.stages(config)
        return [dataclasses.replace(first, patience=2, accumulate=1, parameters=frozen_rates(first)), *rest]

    def frozen_rates(stage: Any) -> Any:
        return lambda model: [dataclasses.replace(g, lr=0.0, weight_decay=0.0) for g in stage.parameters(model)]

    method = dataclasses.replace(METHOD, stages=impatient)
    config = training_tiny.recipe("train.validate_every=1", "train.stages=[first]", "stages.norms=false")
    result = training_tiny.run(method, config, tmp_path, quiet=True)
    assert result.figures["stopped_early"]
    assert result.figures["steps"] == 3


def test_cached_features_train_like_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ("encoder.frozen=true", "data.augment={scale: [1, 1], crop: null, flip: false}", "stages.noise=0", *SHORT)
    train(tmp_path / "images", *plain)
    monkeypatch.setenv("SEGPROTO_CACHE", str(tmp_path / "cache"))
    train(tmp_path / "cached", *plain, "train.cache_features=true")
    a, b = (Segmenter.load(tmp_path / name).state_dict() for name in ("images", "cached"))
    assert any((tmp_path / "cache").iterdir())
    assert not (tmp_path / "cached/cache").exists()
    for key, value in a.items():
        assert torch.allclose(value, b[key], atol=2e-2), key  # Adam's steps of 0.01 on features stored as float16
    with pytest.raises(ConfigError, match=r"^data.augment.crop = 32: train.cache_features needs"):
        train(tmp_path / "no", "encoder.frozen=true", "train.cache_features=true", "data.augment.scale=[1, 1]")


def test_bf16_and_loggers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(tmp_path, *SHORT, "train.precision=bf16-mixed", "train.loggers=[tensorboard]")
    assert any((tmp_path / "tensorboard").iterdir())


def test_a_missing_logger_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ConfigError, match=r'train.loggers: wandb is not installed .*pip install "segproto\[wandb\]"'):
        train(tmp_path, *SHORT, "train.loggers=[wandb]")


def test_workers_follow_the_cores_and_are_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segproto.training.devices.os.cpu_count", lambda: 12)
    config = TrainConfig(accelerator="cpu")
    assert loading_processes(config) == 3
    assert loading_processes(config.model_copy(update={"devices": 3})) == 1
    assert loading_processes(config.model_copy(update={"cache_features": True})) == 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert loading_processes(TrainConfig()) == 8
    assert loading_processes(TrainConfig(devices=4)) == 2
    monkeypatch.undo()
    train(tmp_path / "run", *SHORT)
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert written["data"]["workers"] == loading_processes(TrainConfig(accelerator="cpu"))


def test_time_spent_waiting_for_images_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 3.0, 4.0, 5.0, 7.0, 8.0, 8.0])  # begin; before and after each of two batches; the end; read
    monkeypatch.setattr("segproto.training.loop.time.perf_counter", lambda: next(clock))
    meter = Meter(torch.full((), -1))
    meter.go_on()
    for number, _ in enumerate(meter.waiting(iter([1, 2]))):  # type: ignore[arg-type]
        meter.step(torch.zeros(()), number, 5)
    assert meter.read() == {"images_per_s": 1.25, "waiting": 0.5}
