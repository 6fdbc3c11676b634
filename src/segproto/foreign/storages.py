"""Torch's storages and the tensors that look into them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segproto.foreign.budget import Room, sizes
from segproto.foreign.records import Name, Refusal

LONGEST_KEY = 100
DTYPES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
    "Untyped": torch.uint8, "_Untyped": torch.uint8,
}  # fmt: skip
BY_NAME = {  # of types that came after typed storages
    str(dtype): dtype
    for dtype in (torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2, *DTYPES.values())
}


@dataclass(frozen=True)
class Storage:
    """Flat data of one type, and the room that the file's tensors have."""

    data: Tensor
    room: Room


@dataclass(frozen=True)
class StorageId:
    """Torch's persistent id of a storage: its type, its key in the file and its length."""

    dtype: torch.dtype
    key: str
    length: int
    view: tuple[str, int, int] | None = None

    @property
    def bytes(self) -> int:
        return self.length * self.dtype.itemsize


def storage_id(identity: Any) -> StorageId:
    """Reads ``("storage", type, key, device, length[, view])``.

    Raises:
        Refusal: anything else.
    """
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
        raise Refusal("it refers to an object outside of it that is no tensor storage; the file is damaged")
    _, kind, key, _, length, *view = identity
    path = kind.path if isinstance(kind, Name) else ""
    name = path.removeprefix("torch.").removeprefix("cuda.").removeprefix("storage.").removesuffix("Storage")
    if name not in DTYPES or not path.startswith("torch."):
        raise Refusal(f"a tensor storage of type {path or type(kind).__name__}; expected numbers torch knows")
    short = type(key) is int or (isinstance(key, str) and len(key) <= LONGEST_KEY)
    if not short or sizes((length,)) is None:
        raise Refusal("a tensor storage without key or length; the file is damaged")
    part = view[0] if view and isinstance(view[0], tuple) and len(view[0]) == 3 else None
    return StorageId(DTYPES[name], str(key), length, part)


def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """The tensor of that size and stride in a storage.

    Raises:
        Refusal: it would reach outside its storage, or the file's tensors together would be absurdly larger than it.
    """
    if not isinstance(storage, Storage) or any(sizes(part) is None for part in ((offset,), size, stride)):
        raise Refusal("a tensor without storage, size or stride; the file is damaged")
    have, cells = storage.data.numel(), math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if cells else 0
    if cells and last >= have:
        raise Refusal(f"a tensor of size {size[:5]} in a storage of {have} numbers; the file is damaged")
    storage.room.take(cells * storage.data.itemsize)
    return storage.data.as_strided(size, stride, offset) if cells else storage.data.new_empty(size)


def rebuild_typed(storage: Any, offset: Any, size: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any) -> Tensor:
    """The same of a type that has no storage of its own: its bytes are in an untyped one.

    Raises:
        Refusal: see :func:`rebuild_tensor`; also an unknown type.
    """
    kind = BY_NAME.get(dtype.path) if isinstance(dtype, Name) else None
    if kind is None or not isinstance(storage, Storage) or storage.data.numel() % kind.itemsize:
        raise Refusal("a tensor of an unknown type; the file is damaged")
    return rebuild_tensor(Storage(storage.data.view(kind), storage.room), offset, size, stride)
