"""A folder for one process at a time.

The lock is the system's own, so nothing has to be cleaned up after a killed process. Some network disks have no locks.
There :func:`hold` goes by the process number in the lock file, which means processes on the same machine only, and
says so in a warning.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from segproto.errors import SegprotoError, plain
from segproto.files.locks import is_same, lock
from segproto.files.writing import disk_errors, sweep

log = logging.getLogger(__name__)

LOCK = ".lock"  # in the folder that is held
_held: set[int] = set()  # descriptors of this process; a forked child would keep them locked after its parent's death


def _forget() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keeps a folder to this process: nobody else holds it at the same time. A folder that was not there is made, and
    removed again if nothing was put into it.

    Raises:
        SegprotoError: another process holds it, which is named.
    """
    if folder.exists() and not folder.is_dir():
        raise SegprotoError(f"{folder}: is a file; name a folder")
    new_folders = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = take(folder)
        _held.add(descriptor)
        try:
            yield
        finally:
            _held.discard(descriptor)
            with suppress(OSError):
                (folder / LOCK).unlink()
            os.close(descriptor)
    finally:
        for parent in new_folders:
            with suppress(OSError):  # not empty: it is in use
                parent.rmdir()


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what a killed process left: its lock, and what it was writing, which goes."""
    sweep(folder)
    return all(path.name == LOCK for path in folder.iterdir())


def take(folder: Path) -> int:
    """The locked lock file of a folder, with the process's number and machine in it.

    Raises:
        SegprotoError: another process has it.
    """
    path = folder / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        locked = lock(descriptor)
        holder = read_holder(descriptor)
        if locked is False or (locked is None and is_alive(holder)):
            os.close(descriptor)
            raise SegprotoError(f"{folder}: {words(holder)} is at work there; wait for its end, or stop it")
        if is_same(descriptor, path):  # else whoever had it has just removed it
            break
        os.close(descriptor)
    if locked is None:
        log.warning("%s: no locks on this disk; two processes on two machines would not see each other", plain(folder))
    os.ftruncate(descriptor, 0)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode(), 0)
    return descriptor


def read_holder(descriptor: int) -> dict[str, Any]:
    """What the lock file records of its holder; empty if nothing."""
    try:
        value = json.loads(os.pread(descriptor, 1 << 12, 0))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def words(holder: dict[str, Any]) -> str:
    """A holder in words."""
    if not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')} (since {holder.get('since')})"


def is_alive(holder: dict[str, Any]) -> bool:
    """Whether a holder on this machine still runs."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return bool(holder["pid"] != os.getpid())
