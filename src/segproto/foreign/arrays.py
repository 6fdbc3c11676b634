"""numpy's npy files with a pickled dict inside, and MXNet's parameter files."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from segproto.errors import WeightsError
from segproto.files.reading import open_file
from segproto.foreign.guard import guarded
from segproto.foreign.machine import BoundedStream, load
from segproto.foreign.records import Refusal

V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
MXNET_TYPES = (np.float32, np.float64, np.float16, np.uint8, np.int32, np.int8, np.int64)
MOST_DIMENSIONS = 8


def read_npy_dict(path: str | Path) -> dict[Any, Any]:
    """The dict that ``numpy.save(path, dict)`` wrote: the way published codes store class activation maps.

    Raises:
        WeightsError: something else, or a damaged file.
    """
    path = Path(path)

    def parse(path: Path) -> Any:
        with open_file(path, WeightsError) as file:
            return parse_npy(file)

    value = guarded(path, parse)
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: expected a dict saved by numpy, found {type(value).__name__}")
    return value


def parse_npy(file: IO[bytes]) -> Any:
    """A plain array, or the one object of a 0-dimensional array of objects."""
    version = npy.read_magic(file)
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = header(file)
    stream = BoundedStream(file, os.fstat(file.fileno()).st_size)
    if dtype.hasobject:
        value = load(stream)
        return value.item() if isinstance(value, np.ndarray) and value.shape == () else value
    content = bytearray(stream.read(math.prod(shape) * dtype.itemsize))
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def read_mxnet_params(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from an MXNet ``.params`` file, names with their ``arg:`` and ``aux:``.

    Raises:
        WeightsError: no such file, or a damaged one.
    """

    def parse(path: Path) -> dict[str, Tensor]:
        with open_file(path, WeightsError) as file:
            return parse_mxnet(file)

    tensors: dict[str, Tensor] = guarded(Path(path), parse)
    return tensors


class Words:
    """Little-endian numbers of a bounded stream."""

    def __init__(self, stream: BoundedStream) -> None:
        self.stream = stream

    def take(self, code: str, count: int = 1) -> tuple[int, ...]:
        """``count`` numbers of a struct code."""
        return struct.unpack(f"<{count}{code}", self.stream.read(count * struct.calcsize(f"<{code}")))

    def one(self, code: str) -> int:
        """One number."""
        return self.take(code)[0]


def parse_mxnet(file: IO[bytes]) -> dict[str, Tensor]:
    """Magic, reserved, arrays, names (dmlc's stream of ``vector<NDArray>`` and ``vector<string>``)."""
    size = os.fstat(file.fileno()).st_size
    words = Words(BoundedStream(file, size))
    if words.one("Q") != 0x112:
        raise Refusal("no MXNet parameter file (another magic number)")
    words.one("Q")
    count = words.one("Q")
    if count > size // 4:
        raise Refusal(f"{count} arrays in {size} bytes; the file is damaged")
    arrays = [read_array(words) for _ in range(count)]
    if (named := words.one("Q")) != count:
        raise Refusal(f"{count} arrays and {named} names; the file is damaged")
    names = [words.stream.read(words.one("Q")).decode() for _ in range(count)]
    return dict(zip(names, arrays, strict=True))


def read_array(words: Words) -> Tensor:
    """One array in any of MXNet's layouts: without a version word, V1, V2 (with a storage type) and V3."""
    version = words.one("I")
    if version in (V2, V3) and words.one("i") != 0:
        raise Refusal("a sparse array; expected dense parameters")
    if version in (V1, V2, V3):
        shape = words.take("q", dimensions(words.one("I")))
    else:
        shape = words.take("I", dimensions(version))
    if not shape:
        return torch.empty(0)
    words.take("i", 2)  # device type and number
    code = words.one("i")
    if not 0 <= code < len(MXNET_TYPES) or min(shape) < 0:
        raise Refusal(f"an array of type {code} and shape {shape}; the file is damaged")
    dtype = np.dtype(MXNET_TYPES[code])
    content = bytearray(words.stream.read(math.prod(shape) * dtype.itemsize))
    return torch.from_numpy(np.frombuffer(content, dtype).reshape(shape)) if content else torch.empty(shape)


def dimensions(count: int) -> int:
    """A believable number of dimensions."""
    if count > MOST_DIMENSIONS:
        raise Refusal(f"an array of {count} dimensions; the file is damaged")
    return count
