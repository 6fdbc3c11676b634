"""Under torchrun one line says why all processes end, whatever it was that ended them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_tiny import free_port

from segproto.errors import SegprotoError
from segproto.training import crew

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", "2"]


def started(*words: object) -> subprocess.Popen[str]:
    end = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--no-python", sys.executable]
    command = [*TORCHRUN, *end, "-m", "segproto.cli", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def ours(process: subprocess.Popen[str]) -> list[str]:
    """Lines of segproto, before what torchrun itself says at the end."""
    _, said = process.communicate(timeout=100)
    lines = said.partition("ChildFailedError")[0].splitlines()
    assert sum(line.startswith("Traceback") for line in lines) == 1  # torchrun's
    return [line for line in lines if line.startswith("segproto: ")]


@pytest.mark.slow
def test_an_error_of_one_process_is_one_line(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "0.png").write_bytes(b"no picture")
    process = started("predict", tmp_path / "no-run", images, "--out", tmp_path / "masks", "--device", "cpu", "-q")
    (line,) = ours(process)
    assert "no-run" in line


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_killed_process_is_one_line_and_the_others_end(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("train.accelerator=cpu", "train.precision=32-true", "train.log_every=1", "-q")
    process = started("train", "blackbox/scenes", "--out", run, *settings)
    until = time.monotonic() + 90
    while not (run / "metrics.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.2)
    (second,) = [
        int(place.name)
        for place in Path("/proc").glob("[0-9]*")
        if place.name != str(process.pid) and of_run(place, str(run))
    ]
    os.kill(second, signal.SIGKILL)
    killed = time.monotonic()
    (line,) = ours(process)
    assert time.monotonic() - killed < 15
    assert str(run) in line
    assert line.endswith(f"go on with: segproto train --resume {run}")


def of_run(place: Path, run: str) -> bool:
    """Whether a process is the second of a run."""
    try:
        words, settings = (place / "cmdline").read_bytes(), (place / "environ").read_bytes()
    except OSError:
        return False
    return run.encode() in words and b"\0RANK=1\0" in settings


def test_what_is_told_of_a_lost_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_at_work", [("runs/a", "go on with: x")])
    line = crew.left_alone(RuntimeError("[gloo/transport] Connection closed by peer"))
    assert line == "runs/a: another process was ended (out of memory?), and this one with it; go on with: x"
    assert crew.left_alone(None) == line
    assert crew.left_alone(RuntimeError("shapes differ")) is None
    assert crew.left_alone(SegprotoError("gloo")) is None


def test_one_of_them_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, int] = {}

    class Store:
        def add(self, key: str, amount: int) -> int:
            told[key] = told.get(key, 0) + amount
            return told[key]

    monkeypatch.setattr(crew, "_agents_store", Store)
    assert [crew.speaks() for _ in range(3)] == [True, False, False]
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.undo()
    assert crew.speaks()  # there is nobody to ask
