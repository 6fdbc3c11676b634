"""Writing that survives a crash and speaks clearly of a full disk."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from segproto.errors import SegprotoError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_errors(path: Path, advice: str = "free some space") -> Iterator[None]:
    """Turns a full disk inside the block into one clear line.

    Args:
        path: what was being written.
        advice: what to do, and what is safe.

    Raises:
        SegprotoError: the disk is full, or the quota used up.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise SegprotoError(f"{path}: the disk is full; {advice}") from error
    except SafetensorError as error:  # its writer reports the system's error as text only
        if not any(f"os error {code}" in str(error) for code in FULL):
            raise
        raise SegprotoError(f"{path}: the disk is full; {advice}") from error


def sync_file(path: Path) -> None:
    """Returns when the file, or the folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """:func:`sync_file` for every file and folder below ``folder``, and for it."""
    for path in folder.rglob("*"):
        sync_file(path)
    sync_file(folder)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON in place of an existing file, whole or not at all."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            fresh.write_text(json.dumps(value, indent=1), encoding="utf-8")
            sync_file(fresh)
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
