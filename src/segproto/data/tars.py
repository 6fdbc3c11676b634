"""Tar archives that are read anywhere without being unpacked: shards, of which each holds thousands of small files."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import NamedTuple

from segproto.errors import DataError


class TarEntry(NamedTuple):
    """Where a file lies in its archive, in bytes."""

    start: int
    file_size: int


class TarFiles:
    """The files of an archive, found by one pass over its headers; for threads and forked processes alike.

    It answers as :class:`zipfile.ZipFile` does.

    Args:
        path: a tar file, not compressed.

    Raises:
        DataError: it is none, or is compressed: then nothing in it could be found without unpacking what is before.
    """

    def __init__(self, path: Path) -> None:
        try:
            with tarfile.open(path, "r:") as tar:
                self.NameToInfo = {
                    info.name.removeprefix("./"): TarEntry(info.offset_data, info.size)
                    for info in tar
                    if info.isreg() and not info.issparse()
                }
        except (tarfile.TarError, OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{path}: cannot be read as a tar archive ({error}); it must not be compressed, and complete"
            ) from error
        self._path = path
        self.file = os.open(path, os.O_RDONLY)

    def namelist(self) -> list[str]:
        """The names of its files, in their order."""
        return list(self.NameToInfo)

    def getinfo(self, name: str) -> TarEntry:
        """Size and place of a file.

        Raises:
            KeyError: there is none of that name.
        """
        return self.NameToInfo[name]

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            OSError: the archive ends before it does.
        """
        start, size = self.NameToInfo[name]
        content = os.pread(self.file, size, start)
        if len(content) < size:
            raise OSError(f"ends at byte {len(content)} of {size}")
        return content
