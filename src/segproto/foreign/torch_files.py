"""Torch's files: the zip archive of 1.6 and later, and the stream before it."""

from __future__ import annotations

import io
import os
import zipfile
from typing import IO, Any

import torch

from segproto.foreign.budget import Room
from segproto.foreign.machine import BoundedStream, load
from segproto.foreign.records import Name, Refusal
from segproto.foreign.storages import Storage, StorageId, storage_id

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001


def read_zip(file: IO[bytes]) -> Any:
    """The object of a zip archive that ``torch.save`` wrote.

    Raises:
        Refusal: no such archive; entries that are compressed, overlap, or lie outside of it.
    """
    with opened(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        size = os.fstat(file.fileno()).st_size
        check_entries(entries, size)
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Refusal(f"a zip archive with {len(pickles)} data.pkl; expected one, as torch.save writes")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise Refusal("its numbers are big-endian; save it again on the usual kind of machine")
        storages = ZipStorages(archive, entries, f"{root}data/", Room(size))
        content = archive.read(pickles[0])
        return load(BoundedStream(io.BytesIO(content), len(content)), storages.get)


def opened(file: IO[bytes]) -> zipfile.ZipFile:
    """A zip archive (one that was cut off lacks the directory at its end).

    Raises:
        Refusal: its directory cannot be read.
    """
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise Refusal(f"a zip archive that is cut off or damaged ({error}); download it again") from error


def check_entries(entries: dict[str, zipfile.ZipInfo], size: int) -> None:
    """torch.save neither compresses nor shares bytes, so no archive of its unpacks to more than the file."""
    for name, info in entries.items():
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or name.startswith(("/", "\\")) or ":" in parts[0]:
            raise Refusal(f"its entry {name[:60]!r} lies outside the archive; nothing was unpacked")
        if info.compress_type != zipfile.ZIP_STORED:
            raise Refusal(f"its entry {name[:60]!r} is compressed, which torch.save never does; nothing was unpacked")
    if sum(info.file_size for info in entries.values()) > size:
        raise Refusal("its entries together are larger than the file (a zip bomb); nothing was unpacked")


class ZipStorages:
    """Storages of an archive, each read once when a tensor asks for it."""

    def __init__(self, archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], root: str, room: Room) -> None:
        self.archive, self.entries, self.root, self.room = archive, entries, root, room
        self.known: dict[str, torch.Tensor] = {}

    def get(self, identity: Any) -> Storage:
        """The storage of a persistent id; its length must be that of its entry."""
        wanted = storage_id(identity)
        info = self.entries.get(self.root + wanted.key)
        if info is None or info.file_size != wanted.bytes:
            actual = "is not there" if info is None else f"has {info.file_size}"
            wrong = f"tensor storage {wanted.key[:20]} should have {wanted.bytes} bytes and {actual}"
            raise Refusal(f"{wrong}; the file is damaged")
        if wanted.key not in self.known:
            content = bytearray(self.archive.read(info))
            self.known[wanted.key] = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0).byte()
        return Storage(self.known[wanted.key].view(wanted.dtype), self.room)


def read_stream(file: IO[bytes]) -> Any:
    """A plain pickle, or the stream that torch wrote before 1.6: magic, version, machine, object, keys, storages.

    Raises:
        Refusal: damaged, or a future version.
    """
    stream = BoundedStream(file, os.fstat(file.fileno()).st_size)
    first = load(stream)
    if not (isinstance(first, int) and first == LEGACY_MAGIC):
        return first
    if load(stream) != LEGACY_VERSION:
        raise Refusal(f"a torch stream of another version than {LEGACY_VERSION}")
    load(stream)  # about the machine that wrote it
    storages = StreamStorages(stream.size)
    value = load(stream, storages.get)
    keys = load(stream)
    storages.fill(stream, keys if isinstance(keys, list) else [])
    return value


class StreamStorages:
    """Storages of a stream: room is made when they are named, the numbers come at the end."""

    def __init__(self, size: int) -> None:
        self.left, self.room = size, Room(size)
        self.known: dict[str, tuple[StorageId, torch.Tensor]] = {}

    def get(self, identity: Any) -> Any:
        """The storage of a persistent id; a ``module`` id is its class."""
        if isinstance(identity, tuple) and identity[:1] == ("module",) and isinstance(identity[1], Name):
            return identity[1]
        wanted = storage_id(identity)
        if wanted.key not in self.known:
            self.left -= wanted.bytes
            if self.left < 0:
                raise Refusal(f"tensor storage {wanted.key[:20]} should have {wanted.bytes} bytes, more than the file")
            self.known[wanted.key] = (wanted, torch.zeros(wanted.length, dtype=wanted.dtype))
        data = self.known[wanted.key][1]
        if wanted.view is not None:
            _, start, length = wanted.view
            if not (type(start) is int and type(length) is int and 0 <= start <= start + length <= len(data)):
                raise Refusal(f"a view outside tensor storage {wanted.key[:20]}; the file is damaged")
            data = data[start : start + length]
        return Storage(data, self.room)

    def fill(self, stream: BoundedStream, keys: list[Any]) -> None:
        """Reads the numbers, in the order of the keys."""
        for key in keys:
            if not isinstance(key, (str, int)) or str(key) not in self.known:
                raise Refusal("numbers of a tensor storage that nothing names; the file is damaged")
            wanted, data = self.known.pop(str(key))
            if int.from_bytes(stream.read(8), "little") != wanted.length:
                raise Refusal(f"tensor storage {str(key)[:20]} has not {wanted.length} numbers; the file is damaged")
            if wanted.length:
                content = bytearray(stream.read(wanted.bytes))
                data.copy_(torch.frombuffer(content, dtype=torch.uint8).view(wanted.dtype))
        if self.known:
            raise Refusal(f"{len(self.known)} tensor storages have no numbers; the file is truncated")
