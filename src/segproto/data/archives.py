"""Files in a folder or inside its zip and tar archives, found by one listing and read alike."""

from __future__ import annotations

import io
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from segproto.data.tars import TarFiles
from segproto.errors import DataError
from segproto.files.reading import require_ordinary
from segproto.files.walking import files_below

MOST = 2**30  # bytes of a file that is unpacked into memory
# RuntimeError: encrypted; NotImplementedError (one of these): a compression that zipfile does not know
BROKEN_ZIP = (OSError, LookupError, ValueError, RuntimeError, EOFError, struct.error, zipfile.BadZipFile, zlib.error)

ARCHIVES = (".zip", ".tar")  # suffixes of those that are read as they are

_open: dict[tuple[int, str], zipfile.ZipFile | TarFiles] = {}
_lock = threading.Lock()


class Stat(NamedTuple):
    """What a fingerprint needs of ``os.stat``."""

    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True)
class Member:
    """A file inside an archive; stands where a path of a picture is expected.

    Attributes:
        archive: a zip or tar file.
        member: name inside it.
    """

    archive: Path
    member: str

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.member)[1]

    @property
    def stem(self) -> str:
        return os.path.splitext(self.name)[0]

    @property
    def name(self) -> str:
        return self.member.rpartition("/")[2]

    @property
    def parts(self) -> tuple[str, ...]:
        return (*self.archive.parts, *self.member.split("/"))

    def stat(self) -> Stat:
        """Size of the file, age of its archive."""
        return Stat(archive(self.archive).getinfo(self.member).file_size, self.archive.stat().st_mtime_ns)

    def open_binary(self) -> io.BytesIO:
        """Its content.

        Raises:
            DataError: the archive is damaged there.
        """
        try:
            with _lock:
                size = archive(self.archive).getinfo(self.member).file_size
                if size > MOST:
                    raise DataError(f"{self}: {size:,} bytes are more than the limit of {MOST:,}; unpack the archive")
                return io.BytesIO(archive(self.archive).read(self.member))
        except BROKEN_ZIP as error:
            raise DataError(f"{self}: cannot be read from its archive ({error})") from error


@dataclass(frozen=True)
class Held(Member):
    """A file that somebody handed over, in memory; stands where one in an archive does.

    Attributes:
        content: its bytes.
    """

    archive: Path = field(default=Path(), init=False)
    member: str
    content: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.member

    def stat(self) -> Stat:
        """Its size; it never changes."""
        return Stat(len(self.content), 0)

    def open_binary(self) -> io.BytesIO:
        """Its content."""
        return io.BytesIO(self.content)


def is_archive(path: Path) -> bool:
    """Whether a path is that of an archive, by its suffix."""
    return path.suffix.lower() in ARCHIVES and path.is_file()


def archive(path: Path) -> zipfile.ZipFile | TarFiles:
    """An archive, opened once per process (a zip file's handle must not be shared with forked workers).

    Raises:
        DataError: it is no zip or tar file.
    """
    key = (os.getpid(), str(path))
    if key not in _open:
        tar = path.suffix.lower() == ".tar"
        require_ordinary(path, what="tar archive" if tar else "zip archive")
        try:
            _open[key] = TarFiles(path) if tar else zipfile.ZipFile(path)
        except BROKEN_ZIP as error:
            raise DataError(f"{path}: cannot be read as a zip archive ({error})") from error
    return _open[key]


def leading_into(path: Path) -> tuple[Path, str] | None:
    """The archive that a path leads into (``x.zip/images``), and what it names there; None where there is none."""
    for above in (path, *path.parents):
        if is_archive(above):
            return above, path.relative_to(above).as_posix()
    return None


def is_folder(path: Path) -> bool:
    """Whether there is a folder, be it in an archive."""
    return path.is_dir() or ((found := leading_into(path)) is not None and any(members_below(*found)))


def members_below(path: Path, folder: str) -> Iterator[tuple[str, Member]]:
    """The files below a folder of an archive (``.``: all), with their paths below it."""
    above = "" if folder == "." else f"{folder}/"
    for name in archive(path).namelist():
        if name.startswith(above) and not name.endswith("/"):
            yield name[len(above) :], Member(path, name)


def file_at(path: Path) -> Path | Member | None:
    """The file that a path names, be it in an archive; None if there is none."""
    if path.is_file():
        return path
    found = leading_into(path)
    return Member(*found) if found is not None and found[1] in archive(found[0]).namelist() else None


class Tree:
    """All files of a data root, unpacked or still in the zip archives that lie in it.

    Args:
        root: the folder, or one zip archive.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.zips = [root] if root.suffix == ".zip" else sorted(root.glob("*.zip"))

    def files(self, folder: str, ending: str) -> dict[str, Path | Member]:
        """Files below ``folder`` whose path ends in ``ending``: name (without both) to file, in name order.

        ``""`` is the root. What is unpacked goes before what lies in an archive, where a folder above ``folder`` is
        ignored.
        """
        unpacked = dict(self._unpacked(folder, ending)) if self.root.is_dir() else {}
        files = unpacked or {name: file for path in self.zips for name, file in _members(path, folder, ending)}
        return dict(sorted(files.items()))

    def first_files(self, folders: Iterable[str], ending: str) -> dict[str, Path | Member]:
        """The :meth:`files` of the first folder that has any; empty if none has."""
        for folder in folders:
            files = self.files(folder, ending)
            if files:
                return files
        return {}

    def _unpacked(self, folder: str, ending: str) -> Iterator[tuple[str, Path | Member]]:
        base = self.root / folder
        for below, entry in files_below(base) if base.is_dir() else ():
            if entry.name.endswith(ending) and not entry.name.startswith("."):
                yield f"{below}{entry.name}"[: -len(ending)], Path(entry.path)


def _members(path: Path, folder: str, ending: str) -> Iterator[tuple[str, Path | Member]]:
    mark = f"/{folder.strip('/')}/" if folder else "/"
    for name in archive(path).namelist():
        where = f"/{name}".find(mark)
        if where >= 0 and name.endswith(ending) and not name.rpartition("/")[2].startswith("."):
            yield f"/{name}"[where + len(mark) : -len(ending)], Member(path, name)
