"""Torch's storages and the tensors that look into them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segproto.foreign.records import Name, Refusal

LARGEST_VIEW = 1 << 24  # cells a tensor may have beyond its storage (an expanded view)
DTYPES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
    "Untyped": torch.uint8, "_Untyped": torch.uint8,
}  # fmt: skip


@dataclass(frozen=True)
class Storage:
    """Flat data of one type."""

    data: Tensor


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
    if not isinstance(key, (str, int)) or type(length) is not int or length < 0:
        raise Refusal("a tensor storage without key or length; the file is damaged")
    part = view[0] if view and isinstance(view[0], tuple) and len(view[0]) == 3 else None
    return StorageId(DTYPES[name], str(key), length, part)


def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """The tensor of that size and stride in a storage.

    Raises:
        Refusal: it would reach outside its storage, or be absurdly larger.
    """
    numbers = (offset, *size, *stride) if isinstance(size, tuple) and isinstance(stride, tuple) else (None,)
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise Refusal("a tensor without storage, size or stride; the file is damaged")
    have, cells = storage.data.numel(), math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if cells else 0
    if cells and (last >= have or cells > max(have, LARGEST_VIEW)):
        raise Refusal(f"a tensor of size {size[:5]} in a storage of {have} numbers; the file is damaged")
    return storage.data.as_strided(size, stride, offset) if cells else storage.data.new_empty(size)
