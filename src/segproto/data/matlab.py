"""Label and image arrays in MATLAB files, as SBD, COCO-Stuff 10k and Potsdam come."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segproto.data.archives import Member
from segproto.errors import DataError
from segproto.files.reading import read_bytes

MOST = 2**30  # bytes, also of a variable once unpacked
DEEPEST = 6  # variables inside each other; SBD has two
MATRIX, COMPRESSED = 14, 15  # kinds of elements
BROKEN = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, EOFError,
          struct.error, zlib.error)  # fmt: skip


def read_mat(path: Path | Member, *keys: str) -> NDArray[Any]:
    """The array of the first of these keys that the file has; of SBD's ``GTcls`` the segmentation.

    Raises:
        DataError: naming the file: unreadable, or without such an array.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    stored = path.open_binary().read() if isinstance(path, Member) else read_bytes(path, MOST, what="MATLAB file")
    try:
        refuse_nesting(stored)
        content = loadmat(io.BytesIO(stored))
    except (*BROKEN, MatReadError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read as a MATLAB file ({reason})") from error
    key = next((key for key in keys if key in content), None)
    if key is None:
        variables = ", ".join(name for name in content if not name.startswith("__"))
        raise DataError(f"{path}: holds {variables or 'nothing'}, expected {' or '.join(keys)}")
    value = content[key]
    if key == "GTcls":
        try:
            value = value[0, 0]["Segmentation"]
        except (ValueError, IndexError, TypeError):
            raise DataError(f"{path}: {key} holds no Segmentation") from None
    value = np.asarray(value)
    if value.dtype.kind not in "uib" and not (value.dtype.kind == "f" and (value == np.floor(value)).all()):
        raise DataError(f"{path}: {key} holds {value.dtype}, expected whole numbers")
    if value.min(initial=0) >= 0 and value.max(initial=0) < 256:
        return value.astype(np.uint8)
    return value.astype(np.int64)


def refuse_nesting(stored: bytes) -> None:
    """Refuses files (of MATLAB 5 to 7.2) whose reading would not end well in scipy's reader, which believes them.

    Raises:
        ValueError: variables inside each other deeper than any label is, which would overflow the stack, or of a size
            that the file cannot hold.
    """
    if stored[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
        return
    order = "<" if stored[126:128] == b"IM" else ">"
    waiting = [(memoryview(stored), 128, len(stored), 0)]
    while waiting:
        view, start, stop, depth = waiting.pop()
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} variables inside each other")
        for number, (kind, begin, end) in enumerate(_elements(view, start, stop, order)):
            if kind == COMPRESSED and depth == 0:
                content = zlib.decompressobj().decompress(view[begin:end], MOST)
                waiting.append((memoryview(content), 0, len(content), 0))
            elif kind == MATRIX:
                waiting.append((view, begin, end, depth + 1))
            elif number == 1 and depth:
                sizes = struct.unpack(f"{order}{(end - begin) // 4}i", view[begin : begin + (end - begin) // 4 * 4])
                if min(sizes, default=0) < 0 or math.prod(sizes) > 8 * MOST:
                    raise ValueError(f"a variable of size {sizes[:4]}")


def _elements(view: memoryview, start: int, stop: int, order: str) -> Iterator[tuple[int, int, int]]:
    """Kind, first byte and end of the elements in a part of the file."""
    while start + 8 <= stop:
        kind, size = struct.unpack_from(f"{order}II", view, start)
        if kind >> 16:  # a small element: kind, size and up to four bytes in one place
            yield kind & 0xFFFF, start + 4, start + 4 + min(kind >> 16, 4)
            start += 8
        else:
            yield kind, start + 8, min(start + 8 + size, stop)
            start += 8 + size + (-size % 8 if kind != COMPRESSED else 0)
