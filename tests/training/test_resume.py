"""A run killed at random moments and resumed ends with the very bits of one that was left alone."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_tiny import process_context, train, weights

import segproto.training.checkpoint as checkpoint
from segproto.errors import ConfigError, SegprotoError
from segproto.files import sums

OPTIONS = (
    "stages.first_steps=20",
    "stages.second_steps=16",
    "train.validate_every=4",
    "train.ema=0.9",
    "train.clip=1.0",
)
KILLS = 5


def resumable(out: Path) -> None:
    train(out, *OPTIONS, resume=(out / "recipe.yaml").exists())


def lines(out: Path) -> list[dict[str, object]]:
    timing = ("time", "images_per_s", "waiting")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in timing} for row in rows]


def wait_for_work(process: Any, journal: Path, changes: int) -> None:
    """Returns when the journal has changed so many times, or the process has ended."""
    size = -1
    while changes > 0 and process.is_alive():
        now = journal.stat().st_size if journal.exists() else -1
        changes -= now != size
        size = now
        time.sleep(0.001)


def test_killed_runs_end_with_the_same_bits(tmp_path: Path) -> None:
    context, moments = process_context(), random.Random()  # other moments each time: that is the point
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = context.Process(target=resumable, args=(whole,))
    process.start()
    process.join()
    assert process.exitcode == 0

    for _ in range(KILLS):
        process = context.Process(target=resumable, args=(killed,))
        process.start()
        wait_for_work(process, killed / "metrics.jsonl", moments.randint(1, 4))
        time.sleep(moments.uniform(0, 0.05))
        process.kill()  # SIGKILL
        process.join()
        assert process.exitcode == -9, "it ended before it was killed: lengthen the run"
    process = context.Process(target=resumable, args=(killed,))
    process.start()
    process.join()
    assert process.exitcode == 0
    for model in ("model", "stages/first/model", "stages/shift/model", "stages/second/model", "checkpoints/best"):
        assert weights(whole / model) == weights(killed / model), model
    assert lines(whole) == lines(killed)
    assert sorted(p.name for p in (killed / "checkpoints").iterdir()) == ["best", "finished.json"]


def test_runs_with_the_old_spelling_of_optimizer_are_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older versions spelt it ``optimiser``, in the recipe and in checkpoints."""
    short = (*OPTIONS, "stages.optimiser=sgd")
    train(tmp_path / "whole", *short)
    run, write, written = tmp_path / "run", checkpoint.save, []

    def stop(*arguments: Any) -> Path:
        written.append(write(*arguments))
        if len(written) == 2:
            raise KeyboardInterrupt
        return written[-1]

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train(run, *short)
    state = written[-1] / "state.json"
    assert json.loads(state.read_text())["state"]["step"] > 0
    (written[-1] / "optimizer.safetensors").rename(written[-1] / "optimiser.safetensors")
    for file in (run / "recipe.yaml", state):
        assert "optimizer" in file.read_text()
        file.write_text(file.read_text().replace("optimizer", "optimiser"))
    (written[-1] / sums.NAME).unlink()  # as in older versions
    train(run, *short, resume=True)
    assert weights(run / "model") == weights(tmp_path / "whole" / "model")
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best", "finished.json"]


def test_resume_of_a_finished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from training_tiny import METHOD, recipe

    from segproto.training.runner import run

    out = tmp_path / "run"
    first = train(out, "stages.first_steps=2", "stages.second_steps=0")
    before = weights(out / "model")
    for litter in (".lock", "checkpoints/001-000000000/SHA256SUMS"):  # of one killed while it cleared up
        (out / litter).parent.mkdir(exist_ok=True)
        (out / litter).touch()
    again = run(METHOD, recipe("stages.first_steps=2", "stages.second_steps=0"), out, resume=True)
    assert again.was_finished
    assert again.stages == json.loads(json.dumps(first.stages))
    assert weights(out / "model") == before
    assert "nothing to resume" in capsys.readouterr().err
    assert not (out / ".lock").exists()
    assert [path.name for path in (out / "checkpoints").glob("[!b]*")] == ["finished.json"]


def test_resume_needs_a_run_of_the_same_recipe(tmp_path: Path) -> None:
    with pytest.raises(SegprotoError, match="no run to resume"):
        train(tmp_path / "none", resume=True)
    train(tmp_path / "run", "stages.first_steps=2", "train.stages=[first]")
    with pytest.raises(ConfigError, match=r"stages.lr = 0.5: the run in .* has 0.01"):
        train(tmp_path / "run", "stages.first_steps=2", "train.stages=[first]", "stages.lr=0.5", resume=True)


def test_resume_of_a_run_older_than_a_setting(tmp_path: Path) -> None:
    options = ("stages.first_steps=2", "train.stages=[first]")
    train(tmp_path / "run", *options)
    file = tmp_path / "run" / "recipe.yaml"
    stored = yaml.safe_load(file.read_text())
    del stored["data"]["on_error"]
    file.write_text(yaml.safe_dump(stored))
    assert train(tmp_path / "run", *options, resume=True).was_finished
