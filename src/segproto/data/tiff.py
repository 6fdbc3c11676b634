"""TIFF files that Pillow does not read in the way needed: stacks, and large pictures in parts."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segproto.data.archives import Member
from segproto.data.inflate import open_stream
from segproto.errors import DataError
from segproto.files.reading import require_ordinary

if TYPE_CHECKING:
    from tifffile import TiffFile

MAX_BYTES = 2**31  # of an array, however it is compressed
# What damaged files can raise in tifffile (its own error is a ValueError).
BROKEN = (OSError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, RuntimeError,
          EOFError, struct.error, zlib.error)  # fmt: skip


@contextmanager
def open_tiff(file: Path | Member) -> Iterator[TiffFile]:
    """An open TIFF; no other file is opened with it, whatever its metadata name.

    Raises:
        DataError: naming the file, if it is missing, no ordinary file or no TIFF; also when reading fails inside the
            ``with`` block.
    """
    try:
        with bare_tiff(file) as tiff:
            yield tiff
    except BROKEN as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{file}: cannot be read as a TIFF ({reason})") from error


def bare_tiff(file: Path | Member) -> TiffFile:
    """The same without a block, to be kept open; what is wrong with the file comes as one of :data:`BROKEN`.

    Raises:
        DataError: naming the file, if it is missing or no ordinary file.
    """
    import tifffile

    if not isinstance(file, Member):
        require_ordinary(file, what="TIFF")
    return tifffile.TiffFile(open_stream(file), is_ome=False, is_mmstack=False, is_ndtiff=False)


def read_array(tiff: TiffFile, stack: bool) -> NDArray[Any]:
    """The first page, or the whole first stack.

    Raises:
        ValueError: it would take more memory than ``MAX_BYTES``.
    """
    image = tiff.series[0] if stack else tiff.pages.first
    dtype = np.dtype(np.float64) if image.dtype is None else image.dtype
    if math.prod(image.shape) * dtype.itemsize > MAX_BYTES:
        raise ValueError(f"{dtype} {image.shape} is more than {MAX_BYTES >> 30} GiB")
    return np.asarray(image.asarray())
