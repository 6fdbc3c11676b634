"""The files of a folder or of an archive, by their path below it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from segproto.data.archives import MOST, Member, archive
from segproto.data.layouts.words import split_in
from segproto.data.suffixes import PICTURE_SUFFIXES
from segproto.errors import DataError
from segproto.files.documents import parse_json
from segproto.files.reading import read_text
from segproto.files.walking import files_below

File = Path | Member
# Keys by which JSON of one tool is told from that of another.
TELLING = ("images", "annotations", "categories", "shapes", "imagePath", "result", "objects", "classTitle", "classes")


@dataclass(frozen=True)
class Listing:
    """All files below a root, hidden ones left out.

    Attributes:
        root: a folder or an archive.
        files: path below the root (``a/b.png``) to file, in name order.
    """

    root: Path
    files: Mapping[str, File]

    @property
    def sharded(self) -> bool:
        """Whether the files lie in archives below the root."""
        return self.root.is_dir() and any(isinstance(file, Member) for file in self.files.values())

    @property
    def digest(self) -> str:
        """What changes when a file comes or goes, or one that is no picture is written anew."""
        known = hashlib.sha256()
        for name, file in self.files.items():
            known.update(f"{name}\n".encode(errors="surrogateescape"))
            if PurePosixPath(name).suffix.lower() not in PICTURE_SUFFIXES:
                stat = file.stat()
                known.update(f"{stat.st_size} {stat.st_mtime_ns}\n".encode())
        return known.hexdigest()

    def pictures(self) -> Iterator[tuple[PurePosixPath, File]]:
        """The picture files."""
        for name, file in self.files.items():
            path = PurePosixPath(name)
            if path.suffix.lower() in PICTURE_SUFFIXES:
                yield path, file

    def ending(self, *endings: str) -> list[str]:
        """The paths that end so, in any case."""
        return [name for name in self.files if name.lower().endswith(endings)]

    def json_with(self, *keys: str) -> list[str]:
        """The JSON files in which all of these keys stand somewhere: a look before they are parsed."""
        return [name for name, known in self._keys.items() if known >= {*keys}]

    @cached_property
    def _keys(self) -> dict[str, set[str]]:
        """The keys of ``TELLING`` that each JSON file holds."""
        keys = {}
        for name in self.ending(".json"):
            text = self.text(name)
            keys[name] = {key for key in TELLING if f'"{key}"' in text}
        return keys

    def text(self, name: str) -> str:
        """The content of a text file.

        Raises:
            DataError: it is no UTF-8 text, or too large.
        """
        file = self.files[name]
        if isinstance(file, Path):
            return read_text(file, DataError, MOST, "text file")
        try:
            return file.open_binary().read().decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError:
            raise DataError(f"{file}: is not UTF-8 text; save it as UTF-8") from None

    def json(self, name: str) -> Any:
        """The values of a JSON file.

        Raises:
            DataError: it is none.
        """
        return parse_json(self.text(name), self.files[name])


def list_files(root: Path) -> Listing:
    """The listing of a folder or an archive; of a folder of shards (tar archives and no picture) of what these hold.

    Raises:
        DataError: no such folder, no archive, a folder that is there twice by a link, or a name in two shards.
    """
    if not root.is_dir():
        files: dict[str, File] = {**_members(root)}
    else:
        files = {f"{below}{entry.name}": Path(entry.path) for below, entry in files_below(root)}
        shards = [name for name in sorted(files) if name.lower().endswith(".tar")]
        if shards and not any(PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES for name in files):
            files = {**files, **_of_shards({name: Path(root, name) for name in shards})}
    return Listing(root, {name: files[name] for name in sorted(files) if not _hidden(name)})


def _members(path: Path) -> dict[str, Member]:
    return {name: Member(path, name) for name in archive(path).namelist() if not name.endswith("/")}


def _of_shards(shards: Mapping[str, Path]) -> dict[str, Member]:
    """The files of several archives, below the split that the name of each tells: ``train-0001.tar``, ``val/0.tar``.

    Raises:
        DataError: two hold a file of one name.
    """
    files: dict[str, Member] = {}
    for name, path in shards.items():
        told = next((found[0] for part in reversed(PurePosixPath(name).parts) if (found := split_in(part))), None)
        for member, file in _members(path).items():
            inside = member if told is None or split_in(member.partition("/")[0]) else f"{told}/{member}"
            if inside in files:
                raise DataError(f"{path}: holds {member}, as {files[inside].archive} does; name each image otherwise")
            files[inside] = file
    return files


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
