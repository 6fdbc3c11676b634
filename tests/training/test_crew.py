"""The processes of a run end together, and one of them says why; helpers do not outlive who started them."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segproto.cli.main import obey_interrupt
from segproto.errors import SegprotoError
from segproto.training import crew

LOST = "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:5"
AGAIN = "go on with: segproto train --resume runs/a"
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def fabric() -> Iterator[Any]:
    """The first of three processes."""
    others = [subprocess.Popen(SLEEP) for _ in range(2)]
    yield SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=others)), world_size=3, global_rank=0)
    crew._end_others()
    crew._others.clear()


def test_a_killed_process_is_told_in_one_line(fabric: Any) -> None:
    others = fabric.strategy.launcher.procs
    others[1].kill()
    words = r"runs/a: process 3 of 3 was ended by signal 9 .* --resume runs/a$"
    with pytest.raises(SegprotoError, match=words), crew.together(fabric, Path("runs/a"), AGAIN):
        raise RuntimeError(LOST)
    assert all(process.poll() is not None for process in others)


def test_the_error_of_another_process_is_told(fabric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_last_words", lambda rank: "b.png: broken" if rank == 1 else "")
    others = fabric.strategy.launcher.procs
    others[0].kill()
    others[0].wait()
    others[0].returncode = 2  # as a process that left its words
    with pytest.raises(SegprotoError, match=r"^b\.png: broken$"), crew.together(fabric, Path("runs/a"), AGAIN):
        raise RuntimeError(LOST)


@pytest.mark.parametrize("error", [SegprotoError("a.png: broken"), ValueError("a defect"), KeyboardInterrupt()])
def test_an_error_of_the_first_process_stays_what_it_is(fabric: Any, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, crew.together(fabric, Path("runs/a"), AGAIN):
        raise error
    assert raised.value is error
    assert all(process.poll() is not None for process in fabric.strategy.launcher.procs)


def test_a_first_process_that_waits_for_ever_is_ended() -> None:
    code = (
        "import subprocess, sys, time; from types import SimpleNamespace as N; from pathlib import Path\n"
        "from segproto.training import crew\n"
        "crew.PATIENCE = 0.2\n"
        "other = subprocess.Popen([sys.executable, '-c', 'raise SystemExit(7)'])\n"
        "strategy = N(launcher=N(procs=[other]))\n"
        "with crew.together(N(strategy=strategy, world_size=2, global_rank=0), 'runs/a', ''): time.sleep(60)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert "runs/a: process 2 of 2 ended with code 7" in found.stderr


@pytest.mark.parametrize(
    ("end", "start"), [(signal.SIGKILL, "spawn"), (signal.SIGTERM, "spawn"), (signal.SIGKILL, "forkserver")]
)
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_helpers_end_with_their_parent(tmp_path: Path, end: signal.Signals, start: str) -> None:
    (tmp_path / "main.py").write_text(
        "import multiprocessing, os, time\n"
        "from segproto.orphans import end_with_parent\n"
        "def work():\n"
        "    end_with_parent()\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        f"    process = multiprocessing.get_context('{start}').Process(target=work)\n"
        "    process.start(); process.join()\n"
    )
    parent = subprocess.Popen([sys.executable, tmp_path / "main.py"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    helper = Path("/proc") / parent.stdout.readline().strip()
    assert helper.exists()
    parent.send_signal(end)
    parent.wait()
    until = time.monotonic() + 5
    while helper.exists() and "\nState:\tZ" not in (helper / "status").read_text() and time.monotonic() < until:
        time.sleep(0.05)
    assert time.monotonic() < until
    parent.stdout.close()


def test_ctrl_c_in_a_callback_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that calls back from C, as numba's compiler does, swallows an exception of the callback."""
    monkeypatch.setattr(sys, "unraisablehook", obey_interrupt)

    def interrupted() -> None:
        raise KeyboardInterrupt

    def compile_and_go_on() -> None:
        ctypes.CFUNCTYPE(None)(interrupted)()
        for _ in range(400):
            time.sleep(0.05)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            compile_and_go_on()
    finally:
        signal.signal(signal.SIGINT, before)
