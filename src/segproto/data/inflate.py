"""Reading anywhere inside a file that lies in an archive, without unpacking all that is before it each time."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from segproto.data.archives import Held, Member, archive
from segproto.data.tars import TarEntry

STEP = 8 << 20  # bytes between two places that reading can start from; each costs some 45 KB of memory
CHUNK = 1 << 14  # compressed bytes taken at once
BUFFER = 1 << 20
State = tuple[int, int, Any]  # bytes unpacked so far, place in the archive, what decompresses from there


class MemberStream(io.RawIOBase):
    """A file of a zip archive as a stream with cheap seeking, for one thread; forked workers may go on with it.

    The first pass over the file keeps the state of the decompression every :data:`STEP` bytes.

    Args:
        member: stored or deflated, not encrypted; or of a tar archive.

    Raises:
        ValueError: compressed in another way, or encrypted.
        OSError: the archive is damaged.
    """

    def __init__(self, member: Member) -> None:
        self.name, self.position = str(member), 0
        self.file = os.open(member.archive, os.O_RDONLY)
        info = archive(member.archive).getinfo(member.member)
        if isinstance(info, TarEntry):
            self.start, self.size, self.stored = info.start, info.file_size, True
            return
        if info.flag_bits & 1:
            raise ValueError(f"{member.archive.name} is encrypted; unpack it with the password its owner gives")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.archive.name} is compressed in an unusual way; unpack it")
        self.size, self.stored = info.file_size, info.compress_type == zipfile.ZIP_STORED
        header = os.pread(self.file, 30, info.header_offset)
        names = sum(struct.unpack("<26xHH", header)) if len(header) == 30 else 0
        self.start = info.header_offset + 30 + names
        self.states: list[State] = [(0, self.start, zlib.decompressobj(-zlib.MAX_WBITS))]
        self.latest = self.states[0]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}
        self.position = max(0, origin[whence] + offset)
        return self.position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self.size - self.position))
        content = self.copy(self.position, count) if self.stored else self.inflate(self.position, count)
        view[: len(content)] = content
        self.position += len(content)
        return len(content)

    def copy(self, start: int, count: int) -> bytes:
        """Bytes ``start .. start + count - 1`` of a file that is not compressed."""
        return os.pread(self.file, count, self.start + start)

    def inflate(self, start: int, count: int) -> bytes:
        """Bytes ``start .. start + count - 1`` of the unpacked file.

        Raises:
            OSError: it is damaged there.
        """
        if not count:
            return b""
        stored = self.states[bisect_right(self.states, start, key=lambda entry: entry[0]) - 1]
        at, read, state = self.latest if stored[0] < self.latest[0] <= start else stored
        state, parts = state.copy(), []
        while at < start + count:
            self.latest = (at, read, state.copy())
            packed = os.pread(self.file, CHUNK, read)
            try:
                content = state.decompress(packed)
            except zlib.error as error:
                raise OSError(f"damaged at byte {at} ({error})") from error
            if not packed or (not content and state.eof):
                raise OSError(f"ends at byte {at} of {self.size}")
            parts.append(content[max(0, start - at) : start + count - at])
            at, read = at + len(content), read + len(packed)
            if at - self.states[-1][0] >= STEP:
                self.states.append((at, read, state.copy()))
        return b"".join(parts)

    def close(self) -> None:
        if not self.closed:
            os.close(self.file)
        super().close()


@lru_cache(maxsize=128)
def member_stream(member: Member, age: int) -> io.BufferedReader:
    """The stream of a file, kept open; ``age`` of its archive tells a replaced one."""
    return io.BufferedReader(MemberStream(member), BUFFER)


def open_stream(file: Path | Member) -> Path | BinaryIO:
    """What a reader of large files is given: a path, or a stream into the archive, at its start."""
    if not isinstance(file, Member):
        return file
    if isinstance(file, Held):
        return file.open_binary()
    stream = member_stream(file, file.stat().st_mtime_ns)
    stream.seek(0)
    return stream
