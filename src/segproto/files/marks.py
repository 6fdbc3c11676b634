"""What is ours: the marks of files and folders, and who may be written over."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from segproto.errors import ConfigError
from segproto.files.reading import require_text_name

END = 1 << 16  # bytes at either end of a file where its mark is looked for
OLD = {"page": b"Made by segproto", "figures": b'"command": ['}  # what such files had before there were marks
RUN = ("data.json", "metrics.jsonl", "checkpoints", "stages", "model")  # one of them is beside a run's recipe.yaml
CACHE = "CACHEDIR.TAG"  # https://bford.info/cachedir
SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n# Made by segproto (cache): may be deleted, is made again\n"


def place(path: str | Path, option: str = "--out") -> Path:
    """Where to write, as a person gave it.

    Raises:
        ConfigError: it is empty, which ``Path`` would take for the current folder; or no UTF-8.
    """
    if str(path).strip() == "":
        raise ConfigError(f"{option}: is empty (a variable that is not set?); name where to write")
    return require_text_name(Path(path), ConfigError)


def mark(kind: str) -> str:
    """What a file of this kind bears."""
    return f"Made by segproto ({kind})"


def marked(path: Path, kind: str) -> bool:
    """Whether a file bears the mark of a kind (or what it had before there were marks)."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        ends = file.read(END)
        file.seek(max(size - END, 0))
        ends += b"\0" + file.read(END)
    return mark(kind).encode() in ends or (kind in OLD and OLD[kind] in ends)


def require_room(path: Path) -> None:
    """Sees that a file or folder may be made, in the nearest folder above it that is there.

    Raises:
        ConfigError: it may not.
    """
    above = next((folder for folder in Path(os.path.abspath(path)).parents if folder.is_dir()), None)
    if above is not None and not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"{path}: {above} may not be written (permission denied); name another place to write")


def require(path: Path, kind: str | None, inputs: Collection[tuple[int, int]] = ()) -> None:
    """Sees that a file may be written: nothing is there, or an earlier file of ours of the same kind.

    Args:
        path: the file.
        kind: the mark it must bear; None = it lies in a folder that the project made for itself.
        inputs: :func:`identities` of files that the command reads.

    Raises:
        ConfigError: something else is there, or nothing may be written there.
    """
    require_room(path)
    advice = "name another place to write"
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise ConfigError(f"{path}: cannot be made: a file is where a folder would be; {advice}") from None
    if stat.S_ISLNK(status.st_mode):
        try:
            status = path.stat()
        except OSError:
            if kind is None and in_own_folder(path):
                return
            raise ConfigError(f"{path}: is a link to nothing; {advice}, or remove it") from None
    if stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{path}: is a folder, and a file would be written; {advice}")
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path}: is no ordinary file; {advice}")
    if (status.st_dev, status.st_ino) in inputs:
        raise ConfigError(f"{path}: is an input of this command and would be overwritten; {advice}")
    if not (in_own_folder(path) if kind is None else marked(path, kind)):
        expected = f"{kind} that" if kind else "file that"
        raise ConfigError(f"{path}: is there and is no {expected} segproto made; {advice}, or move it away")


def require_all(paths: Iterable[Path], kind: str, inputs: Iterable[Path] = ()) -> None:
    """:func:`require` of many files, before a long work begins.

    Raises:
        ConfigError: naming the first that must not be written.
    """
    input_ids = identities(inputs)
    for path in paths:
        require(path, kind, input_ids)


def identities(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """Device and number of each file, by which it is known under any name; files that are not there have none."""
    ids = set()
    for path in paths:
        with suppress(OSError):
            status = path.stat()
            ids.add((status.st_dev, status.st_ino))
    return ids


def in_own_folder(path: Path) -> bool:
    """Whether a folder above is one that the project makes for itself: a run, proposals, a tagged cache."""
    for folder in Path(os.path.abspath(path)).parents:
        if (folder / "recipe.yaml").is_file() and any((folder / name).exists() for name in RUN):
            return True
        if (folder / "propose.json").is_file() or (folder / CACHE).is_file():
            return True
    return False


def require_folder(folder: Path, holds: Sequence[str], own: Callable[[Path], bool]) -> None:
    """Sees that a folder may be replaced, see :func:`fresh_folder`.

    Raises:
        ConfigError: naming what is in the way, or the folder above that may not be written.
    """
    require_room(folder)
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is a file, and a folder would be made; name another place to write")
    if not any(folder.iterdir()):
        return
    foreign = foreign_in(folder, holds)
    if foreign is not None or not (own(folder) or in_own_folder(folder)):
        content = foreign or "files that segproto did not make"
        raise ConfigError(f"{folder}: holds {content} and would be replaced as a whole; name a new folder")


def foreign_in(folder: Path, holds: Sequence[str]) -> str | None:
    """The first file in a folder that none of the patterns allows; None if there is none."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() or path.is_symlink():
            if not any(fnmatch(name, pattern) for pattern in holds):
                return name
        elif not any(pattern.startswith(f"{name}/") for pattern in holds):
            return name
    return None


def stamped(data: bytes, kind: str) -> bytes:
    """A PNG, JPEG, HTML page or zip archive with the mark in it, where each format has room for a comment.

    Raises:
        ValueError: another format.
    """
    words = mark(kind).encode()
    if data.startswith(b"\x89PNG"):  # behind the header, which is always of this length
        return data[:33] + png_chunk(b"tEXt", b"Software\0" + words) + data[33:]
    if data.startswith(b"\xff\xd8\xff"):  # behind the first segment, where that is JFIF's
        first = 4 + int.from_bytes(data[4:6], "big") if data[3] == 0xE0 else 2
        return data[:first] + b"\xff\xfe" + struct.pack(">H", len(words) + 2) + words + data[first:]
    if data[:9].lower() == b"<!doctype":
        end = data.index(b">") + 1
        return data[:end] + b"\n<!-- " + words + b" -->" + data[end:]
    if data.startswith(b"PK"):
        buffer = io.BytesIO(data)
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.comment = words
        return buffer.getvalue()
    raise ValueError(f"no room for a mark in a file that begins with {data[:8]!r}")


def png_chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
