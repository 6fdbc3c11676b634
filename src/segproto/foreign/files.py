"""One entry for all foreign files: told apart by their first bytes, never by their names."""

from __future__ import annotations

import pickletools
import struct
import tarfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segproto.errors import WeightsError
from segproto.files.reading import open_file
from segproto.foreign.arrays import parse_mxnet, parse_npy
from segproto.foreign.guard import guarded
from segproto.foreign.records import Refusal
from segproto.foreign.torch_files import read_stream, read_zip

OPCODES = frozenset(opcode.code for opcode in pickletools.opcodes)
ZIP, NPY, MXNET = b"PK\x03\x04", b"\x93NUMPY", struct.pack("<Q", 0x112)


def read(path: str | Path) -> Any:
    """Reads a torch file (zip or stream), a pickle, safetensors, an npy file or MXNet parameters; runs nothing of it.

    Args:
        path: the file.

    Returns:
        What it holds: tensors (CPU), arrays and plain containers; :class:`Record` for objects of other classes,
        :class:`Name` for classes.

    Raises:
        WeightsError: it is missing, damaged, of another format, or names what only an attack would.
    """
    path = Path(path)
    return guarded(path, read_any)


def read_any(path: Path) -> Any:
    """By its first bytes."""
    with open_file(path, WeightsError) as file:
        start = file.read(8)
        file.seek(0)
        if start.startswith(ZIP):
            return read_zip(file)
        if start.startswith(NPY):
            return parse_npy(file)
        if start == MXNET:
            return parse_mxnet(file)
        if not start:
            raise Refusal("the file is empty")
        if file.seek(8) and file.read(1) == b"{" and struct.unpack("<Q", start)[0] < path.stat().st_size:
            return read_safetensors(path)
        file.seek(0)
        if start[:1].decode("latin1") not in OPCODES:
            kinds = "neither a torch file, pickle, safetensors, npy nor MXNet file"
            raise Refusal(f"{kinds} (it starts with {start[:4]!r})")
        if start[0] != 0x80 and tarfile.is_tarfile(file):
            raise Refusal("a tar archive, as torch wrote before 0.1.10; load it with an old torch and save it again")
        return read_stream(file)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name.

    Raises:
        Refusal: damaged.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise Refusal(f"damaged safetensors ({error}); download it again") from error
    return tensors
