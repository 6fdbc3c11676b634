"""Writing whole or not at all, and removing what is ours."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from segproto.errors import SegprotoError, plain
from segproto.files.locks import is_same, lock
from segproto.files.marks import CACHE, SIGNATURE, foreign_in, mark, require, require_folder, stamped

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

ADVICE = "free some space"
DAY = 86400  # seconds after which a part is litter where there are no locks
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WORDS = {
    errno.EACCES: "may not be written (permission denied)",
    errno.EPERM: "may not be written (not permitted)",
    errno.EROFS: "is on a disk that can only be read",
    errno.ENOTDIR: "cannot be made: a file is where a folder would be",
    errno.EEXIST: "cannot be made: a file is where a folder would be",
    errno.ENAMETOOLONG: "cannot be made: the name is too long",
}
_swept: set[Path] = set()  # folders whose litter this process has removed


@contextmanager
def disk_errors(path: Path, advice: str = ADVICE) -> Iterator[None]:
    """Turns what a disk refuses inside the block into one clear line.

    Args:
        path: what was being written.
        advice: what to do about a full disk, and what is safe.

    Raises:
        SegprotoError: the disk is full, or the quota used up; or a file or folder beside ``path`` may not be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise SegprotoError(f"{path}: the disk is full; {advice}") from error
        if error.errno not in WORDS or not concerns(error, path.parent):
            raise
        raise SegprotoError(f"{path}: {WORDS[error.errno]}; name another place to write") from error
    except Exception as error:  # safetensors' writer reports the system's error as text only
        if type(error).__name__ != "SafetensorError" or not any(f"os error {code}" in str(error) for code in FULL):
            raise
        raise SegprotoError(f"{path}: the disk is full; {advice}") from error


def concerns(error: OSError, folder: Path) -> bool:
    """Whether an error is about something in a folder or about one above it, which could not be made."""
    if error.filename is None:
        return True
    about, target = Path(os.path.abspath(str(error.filename))), Path(os.path.abspath(folder))
    return about.is_relative_to(target) or target.is_relative_to(about)


@contextmanager
def fresh(path: Path, kind: str | None, advice: str = ADVICE) -> Iterator[BinaryIO]:
    """A file to write, which gets its name once it is complete and on the disk; after an error nothing is left of it.

    Args:
        path: the file; its folder is made.
        kind: of what is written: only a file with its mark is replaced, and the caller writes the mark
            (:func:`stamped`); None = any file in a folder that the project made for itself.
        advice: see :func:`disk_errors`.

    Raises:
        ConfigError: something else is there.
        SegprotoError: see :func:`disk_errors`.
    """
    require(path, kind)
    with disk_errors(path, advice):
        part, descriptor = _open_part(path.parent, folder=False)
        try:
            with os.fdopen(descriptor, "r+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                require(path, kind)  # once more: the work may have taken hours
                os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def fresh_folder(
    folder: Path, holds: Sequence[str], own: Callable[[Path], bool], advice: str = ADVICE
) -> Iterator[Path]:
    """A folder to fill, which takes the place of ``folder`` once it is complete and on the disk.

    Args:
        folder: a folder that is not there, is empty, or is of this kind; a crash leaves it, or :func:`old_of` it.
        holds: what a folder of this kind may hold, as patterns of paths in it.
        own: whether what has such files is ours.
        advice: see :func:`disk_errors`.

    Raises:
        ConfigError: something else is there; it is left as it is.
        SegprotoError: see :func:`disk_errors`.
    """
    folder = Path(os.path.realpath(folder))
    require_folder(folder, holds, own)
    with disk_errors(folder, advice), scratch(folder.parent) as part:
        yield part
        sync_tree(part)
        require_folder(folder, holds, own)
        if folder.exists():
            remove_folder(old_of(folder), holds)
            os.rename(folder, old_of(folder))
        os.rename(part, folder)
        sync_file(folder.parent)
        remove_folder(old_of(folder), holds)


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder of the block's own in another folder, which is made; gone at its end, unless it got another name."""
    part, descriptor = _open_part(parent, folder=True)
    try:
        yield part
    finally:
        os.close(descriptor)
        shutil.rmtree(part, ignore_errors=True)


def old_of(folder: Path) -> Path:
    """Where :func:`fresh_folder` keeps the folder that was there before, until the new one has its name."""
    return folder.with_name(f".{folder.name}.old") if folder.name else folder


def remove_folder(folder: Path, holds: Sequence[str]) -> None:
    """Removes a folder if it has nothing but what the patterns allow; else it is left, with a warning."""
    if not folder.is_dir() or folder.is_symlink():
        return
    foreign = foreign_in(folder, holds)
    if foreign is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        log.warning("%s: is no longer needed, but left because of %s in it", plain(folder), plain(foreign))


def remove(path: Path) -> None:
    """Removes a file in a folder that the project made for itself; any other is left.

    Raises:
        ConfigError: it is elsewhere.
    """
    require(path, None)
    path.unlink(missing_ok=True)


def take_back(folder: Path, begun: Sequence[str], beside: Sequence[str] = ()) -> bool:
    """Removes what was written into a folder of our own before any work was done there.

    Args:
        folder: stays, empty.
        begun: its files that go, in this order, with all empty folders.
        beside: its files that may stay.

    Returns:
        False if there is any other file: then everything stays.
    """
    below = sorted(folder.rglob("*"), reverse=True)
    files = {path.relative_to(folder).as_posix() for path in below if not path.is_dir() or path.is_symlink()}
    if not files <= {*begun, *beside}:
        return False
    for name in begun:
        (folder / name).unlink(missing_ok=True)
    for path in below:
        if path.is_dir():
            path.rmdir()
    return True


def _open_part(parent: Path, *, folder: bool) -> tuple[Path, int]:
    """What is being written, under its temporary name, open and locked; with the rights that new files have here."""
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    while True:
        part = _part_name(parent)
        if folder:
            part.mkdir()
            descriptor = os.open(part, os.O_RDONLY)
        else:
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        lock(descriptor)
        if is_same(descriptor, part):  # else another process took it for litter in the moment before the lock
            return part, descriptor
        os.close(descriptor)


def _part_name(folder: Path) -> Path:
    return folder / f".segproto-{secrets.token_hex(6)}.part"


def sweep(folder: Path) -> None:
    """Removes what killed processes had begun to write in a folder; each process looks once."""
    folder = folder.resolve()
    if folder in _swept:
        return
    _swept.add(folder)
    for part in folder.glob(".segproto-*.part"):
        with suppress(OSError):
            descriptor = os.open(part, os.O_RDONLY)
            try:
                locked = lock(descriptor)
                if locked or (locked is None and time.time() - part.stat().st_mtime > DAY):
                    if part.is_dir():
                        shutil.rmtree(part)
                    else:
                        part.unlink()
            finally:
                os.close(descriptor)


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


def write(path: Path, data: bytes, kind: str | None) -> None:
    """:func:`fresh` for what is at hand, with its mark (:func:`stamped`)."""
    with fresh(path, kind) as file:
        file.write(data if kind is None else stamped(data, kind))


def write_json(path: Path, value: Any, kind: str | None, default: Callable[[Any], Any] | None = None) -> None:
    """Writes JSON; an object of a kind gets the mark as its first key, ``made_by``.

    Args:
        path: the file.
        value: what is written.
        kind: see :func:`fresh`.
        default: makes something plain of what JSON does not know.
    """
    content = value if kind is None else {"made_by": mark(kind), **value}
    text = json.dumps(content, indent=1, default=default)
    with fresh(path, kind) as file:
        file.write(text.encode())


def write_picture(path: Path, save: Callable[[BinaryIO], object], kind: str | None) -> None:
    """Writes what ``save`` puts into a file, a PNG or JPEG, with the mark."""
    buffer = io.BytesIO()
    save(buffer)
    write(path, buffer.getvalue(), kind)


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    kind: str | None,
    metadata: Mapping[str, str] | None = None,
    advice: str = ADVICE,
) -> None:
    """Writes tensors of any device as safetensors, with the mark in the metadata."""
    from safetensors.torch import save

    header = {**(metadata or {}), **({} if kind is None else {"made_by": mark(kind)})}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with fresh(path, kind, advice) as file:
        file.write(in_order(save(plain, metadata=header or None)))


def in_order(data: bytes) -> bytes:
    """A safetensors file with its metadata sorted; safetensors writes them in any order, another one each time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[end:]


def link(path: Path, source: Path) -> None:
    """A link to a file of the user's (a copy where links cannot be had), in a folder the project made for itself."""
    require(path, None)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _part_name(path.parent)
        try:
            part.symlink_to(source)
        except OSError:
            with fresh(path, None) as file, source.open("rb") as original:
                shutil.copyfileobj(original, file)
            return
        try:
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def fill(path: Path, content: str | bytes) -> None:
    """A file in a :func:`fresh_folder`, which needs no more."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def fill_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors as safetensors in a :func:`fresh_folder`, without a second copy of them all in memory."""
    from safetensors.torch import save_file

    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, path)
    path.chmod(mode)  # its writer makes files that their owner alone may read


def tag_cache(folder: Path) -> None:
    """Makes a folder, and tags it as one whose files are made again if they are gone or damaged."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / CACHE).exists():
            write(folder / CACHE, SIGNATURE.encode(), None)
