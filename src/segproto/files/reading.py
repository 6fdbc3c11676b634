"""Files as others left them: only ordinary ones are opened, and no more of one is read than was asked for.

A pipe would be waited for, a device may never end, and opening a socket or a terminal does things of its own; a name in
a data set or a run that somebody sent must lead to none of that.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from segproto.errors import DataError, SegprotoError

TEXT_LIMIT = 2**28  # bytes of a text file (a list of names, a log); pictures and tensors have limits of their own
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_ordinary(path: Path, error: type[SegprotoError] = DataError, what: str = "file") -> int:
    """Sees that there is an ordinary file (or a link to one); it is not opened.

    Args:
        path: the file.
        error: what is raised.
        what: was expected there, in a word or two.

    Returns:
        Its size in bytes.

    Raises:
        SegprotoError: of the given kind, naming the file: not there, a folder, a pipe, a socket or a device.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except (OSError, ValueError) as problem:  # ValueError: a zero byte in the name
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error(f"{path}: cannot be opened ({reason})") from None
    _check(path, status, error, what)
    return status.st_size


def require_text_name(path: Path, error: type[SegprotoError] = DataError) -> Path:
    """The path itself, if its name can be written into texts: JSON, pages and recipes hold no other.

    Raises:
        SegprotoError: of the given kind: its bytes are not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise error(f"{path}: its name is not UTF-8; rename it") from None
    return path


def open_file(path: Path, error: type[SegprotoError] = DataError, what: str = "file") -> BinaryIO:
    """An ordinary file, open for reading.

    Raises:
        SegprotoError: of the given kind, see :func:`require_ordinary`; also where it may not be read.
    """
    require_ordinary(path, error, what)
    # non-blocking: should a pipe take the file's place just now, it is not waited for
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        file = os.fdopen(os.open(path, flags), "rb")
    except OSError as problem:
        raise error(f"{path}: cannot be opened ({problem.strerror or problem})") from None
    try:
        _check(path, os.fstat(file.fileno()), error, what)
    except SegprotoError:
        file.close()
        raise
    return file


def read_bytes(path: Path, limit: int, error: type[SegprotoError] = DataError, what: str = "file") -> bytes:
    """The content of an ordinary file of at most ``limit`` bytes.

    Raises:
        SegprotoError: of the given kind, see :func:`open_file`; also if it is larger.
    """
    with open_file(path, error, what) as file:
        try:
            content = file.read(limit + 1)
        except OSError as problem:
            raise error(f"{path}: cannot be read ({problem.strerror or problem})") from None
    if len(content) > limit:
        raise error(f"{path}: has more than {limit:,} bytes, which no such file needs")
    return content


def read_text(path: Path, error: type[SegprotoError] = DataError, limit: int = TEXT_LIMIT, what: str = "file") -> str:
    """The content of an ordinary UTF-8 file (a byte order mark is skipped).

    Raises:
        SegprotoError: of the given kind, see :func:`read_bytes`; also if it is not UTF-8.
    """
    content = read_bytes(path, limit, error, what)
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise error(f"{path}: is not UTF-8 text (line {line}); save it as UTF-8") from None


def _check(path: Path, status: os.stat_result, error: type[SegprotoError], what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise error(f"{path}: is {kind}; expected one {what}")
