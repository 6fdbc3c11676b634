"""Checksums of a folder's files, by which a flipped bit is noticed: ``SHA256SUMS``, as ``sha256sum -c`` reads it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from segproto.errors import SegprotoError, WeightsError
from segproto.files.reading import read_text

NAME = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_sums(folder: Path) -> None:
    """Notes the files of a folder that is being written; what is put there afterwards is not among them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / NAME).write_text("".join(lines), encoding="utf-8")


def check_sums(folder: Path, advice: str, error: type[SegprotoError] = WeightsError) -> None:
    """Sees that a folder's files are those that were written. One from before there were checksums passes.

    Args:
        folder: with a ``SHA256SUMS`` in it.
        advice: what to do about a damaged file.
        error: what is raised.

    Raises:
        SegprotoError: of the given kind, naming the first file that is damaged or gone.
    """
    path = folder / NAME
    if not path.exists():
        return
    for line in read_text(path, error).splitlines():
        match = LINE.fullmatch(line)
        if match is None:
            raise error(f"{path}: damaged ({line[:80]!r} is no checksum and name); {advice}")
        file = folder / match[2]
        if not file.is_file():
            raise error(f"{file}: gone, although {NAME} beside it names it; {advice}")
        if digest(file) != match[1]:
            raise error(f"{file}: damaged, its content is not what was written (see {NAME} beside it); {advice}")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
