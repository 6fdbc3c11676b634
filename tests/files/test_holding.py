"""One process at a time in a folder, told who it is, and no lock outlives its process."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from segproto.errors import SegprotoError
from segproto.files import hold, holding, is_empty

HOLD = """
import os, signal, sys
from pathlib import Path
from segproto.files import hold
with hold(Path(sys.argv[1])):
    if sys.argv[2:]:
        if os.fork() == 0:
            print(os.getpid(), flush=True)
    else:
        print("held", flush=True)
    signal.pause()
"""


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *more], stdout=subprocess.PIPE, text=True, bufsize=1
    )


def test_the_second_is_told_who_holds_it_until_it_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with start(folder) as process:
        assert process.stdout is not None
        process.stdout.readline()
        words = f"{folder}: process {process.pid} on {re.escape(socket.gethostname())} .since .* is at work there; wait"
        with pytest.raises(SegprotoError, match=words), hold(folder):
            raise AssertionError
        assert (folder / ".lock").exists()
        process.kill()
    assert (folder / ".lock").exists()  # the file stays, the lock does not
    with hold(folder):
        assert json.loads((folder / ".lock").read_text())["pid"] == os.getpid()
        with pytest.raises(SegprotoError, match=f"process {os.getpid()} on"), hold(folder):
            raise AssertionError
    assert list(folder.iterdir()) == []


def test_a_child_of_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with start(tmp_path, "fork") as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
        process.stdout.close()
    try:
        with hold(tmp_path):
            pass
    finally:
        os.kill(child, 9)


def test_a_folder_made_in_vain_goes_again(tmp_path: Path) -> None:
    with pytest.raises(KeyError), hold(tmp_path / "a" / "b"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with hold(tmp_path / "a" / "b"):
        (tmp_path / "a" / "x").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "x"]


def test_where_there_are_no_locks_the_process_number_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(holding, "lock", lambda descriptor: None)
    other = {"pid": os.getppid(), "host": socket.gethostname(), "since": "today"}
    (tmp_path / ".lock").write_text(json.dumps(other))
    with pytest.raises(SegprotoError, match=f"process {os.getppid()} on"), hold(tmp_path):
        raise AssertionError
    for holder in (other | {"host": "elsewhere"}, other | {"pid": 2**22 + 1}, {}, [], "x"):
        (tmp_path / ".lock").write_text(json.dumps(holder))
        with hold(tmp_path):
            assert "no locks on this disk" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_nothing(tmp_path: Path) -> None:
    for name in (".lock", ".segproto-0123456789ab.part"):
        (tmp_path / name).touch()
    assert is_empty(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    with hold(tmp_path):
        pass
    (tmp_path / ".notes").touch()
    assert not is_empty(tmp_path)
