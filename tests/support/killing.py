"""Commands in processes of their own, which a signal ends at a chosen change of the file system."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from training_tiny import process_context

PATIENCE = 60.0  # seconds, on a loaded machine, until the last process of a killed command is gone
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR

# What differs between two runs of one command that were both left alone.
VOLATILE = {
    "seconds": "how long it took",
    "stage_began": "seconds, too",
    "seconds_of_change": "seconds, too",
    "time": "the time of day",
    "images_per_s": "how fast it was",
    "waiting": "how long it waited for images",
    "command": "what was typed: a run that was resumed was told so",
}


class Moment(NamedTuple):
    """When and how a command is killed.

    Attributes:
        change: before this change of the file system, counted from 1.
        delay: seconds later.
        signal: what it gets.
        group: all its processes get it; else the one that was started.
    """

    change: int
    delay: float
    signal: int
    group: bool

    def __str__(self) -> str:
        name, whom = signal.Signals(self.signal).name, " to all" if self.group else ""
        return f"{name}{whom} {self.delay:.2f} s after change {self.change}"


class Ended(NamedTuple):
    """How a command ended: its exit code (negative: a signal), what it said, and the changes it made."""

    code: int
    said: str
    changes: int


def strike(moment: Moment) -> None:
    if moment.group:
        os.killpg(0, moment.signal)
    else:
        os.kill(os.getpid(), moment.signal)


def within(path: Any, folder: Path) -> bool:
    """Whether what is changed lies in the folder; what a descriptor names (``shutil.rmtree``) is taken to."""
    if not isinstance(path, str | bytes | os.PathLike):
        return True
    name = os.fsdecode(path)
    return os.sep not in name or name.startswith(f"{folder}{os.sep}")


def watch(folder: Path, counts: Path, moment: Moment | None) -> None:
    """Counts this process's changes below a folder, and ends it at the moment."""
    first, count, counter = os.getpid(), 0, os.open(counts, os.O_WRONLY | os.O_CREAT)

    def seen(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event in CHANGES or (event == "open" and bool((arguments[2] or 0) & WRITING))
        if not writes or os.getpid() != first or not within(arguments[0], folder):
            return
        count += 1
        os.pwrite(counter, b"%d" % count, 0)
        if moment is not None and count == moment.change:
            if moment.delay:
                timer = threading.Timer(moment.delay, strike, [moment])
                timer.daemon = True
                timer.start()
            else:
                strike(moment)

    sys.addaudithook(seen)


def command(words: list[str], folder: Path, aside: Path, moment: Moment | None) -> None:
    """The process: what the command line does with ``words``, in the folder."""
    import torch

    import segproto.cli.main as program

    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # that of this Python, not of the tests' server of processes
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    said = os.open(aside / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.chdir(folder)
    os.environ.update(TMPDIR=str(aside / "temporary"), COLUMNS="200")
    tempfile.tempdir = None
    sys.argv = [str(Path(program.__file__).with_name("__main__.py")), *words]  # which a launcher repeats
    torch.set_num_threads(1)
    watch(folder, aside / "changes", moment)
    program.main()


def attempt(words: list[str], folder: Path, aside: Path, moment: Moment | None = None) -> Ended:
    """Runs a command, killed at the moment; returns once the last of its processes is gone."""
    (aside / "temporary").mkdir(parents=True, exist_ok=True)
    (aside / "changes").write_text("0")
    (aside / "said").write_text("")
    process = process_context().Process(target=command, args=(words, folder, aside, moment))
    process.start()
    process.join()
    began = time.monotonic()
    while left := living(process.pid):
        if time.monotonic() - began > PATIENCE:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"{PATIENCE} s after {moment} there still are {left} of: {' '.join(words)}")
        time.sleep(0.1)
    return Ended(process.exitcode, (aside / "said").read_text(), int((aside / "changes").read_text()))


def temporary(aside: Path) -> list[str]:
    """What is in the folder that stands for the system's temporary one."""
    return [path.name for path in (aside / "temporary").iterdir()]


def living(group: int) -> list[str]:
    """The processes of a group that are more than a line in the system's table."""
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,stat=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return [row[-1] for row in rows if row[0] == str(group) and not row[1].startswith("Z")]


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in VOLATILE}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def products(folder: Path) -> dict[str, Any]:
    """All files and folders below a folder, with their contents."""
    contents: dict[str, Any] = {}
    for path in folder.rglob("*"):
        content: Any = None if path.is_dir() else path.read_bytes()
        if path.suffix == ".json":
            content = without_times(json.loads(content))
        elif path.suffix == ".jsonl":
            content = [without_times(json.loads(line)) for line in content.splitlines()]
        contents[path.relative_to(folder).as_posix()] = content
    return contents


def differences(whole: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What a killed and repeated command left, against one that was left alone."""
    lines = [f"{path} is missing" for path in sorted(whole.keys() - found.keys())]
    lines += [f"{path} is litter" for path in sorted(found.keys() - whole.keys())]
    for path in sorted(whole.keys() & found.keys()):
        if whole[path] != found[path]:
            lines.append(f"{path} differs{where(whole[path], found[path])}")
    return lines


def where(whole: Any, found: Any) -> str:
    """The first place in which two values differ, and both of its values."""
    if isinstance(whole, dict) and isinstance(found, dict) and whole.keys() == found.keys():
        key = next(key for key in whole if whole[key] != found[key])
        return f".{key}{where(whole[key], found[key])}"
    if isinstance(whole, list | bytes) and isinstance(found, list | bytes) and len(whole) == len(found):
        at = next(at for at, value in enumerate(whole) if value != found[at])
        if isinstance(whole, list):
            return f"[{at}]{where(whole[at], found[at])}"
        return f" at byte {at}: {whole[at - 40 : at + 40]!r} / {found[at - 40 : at + 40]!r}"
    return f": {str(whole)[:200]} / {str(found)[:200]}"
