"""Pickled numpy objects: types, arrays and scalars, from their bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from segproto.foreign.budget import sizes
from segproto.foreign.records import Name, Refusal

PLAIN = re.compile(r"[<>|=]?([?bBhHiIlLqQefdFD]|[biufc]\d{1,2}|[SUa]\d{1,6}|O8?)")


@dataclass(eq=False)
class DType:
    """A numpy type by its text; its byte order comes with the state."""

    text: str

    def build(self, state: Any) -> DType:
        """The state's second entry is the byte order."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order in ("<", ">"):
            self.text = order + self.text.lstrip("<>|=")
        return self

    def numpy(self) -> np.dtype[Any]:
        """numpy's type."""
        return np.dtype(self.text)


class PendingArray:
    """An array between ``_reconstruct`` and its state."""

    def build(self, state: Any) -> Any:
        """State: (version, shape, type, Fortran order, bytes or list of objects)."""
        if not isinstance(state, tuple) or len(state) < 4:
            raise Refusal("a numpy array without shape and data; the file is damaged")
        shape, dtype, fortran, data = state[-4:]
        return make_array(data, dtype, shape, "F" if fortran else "C")


def make_array(data: Any, dtype: Any, shape: Any, order: str) -> Any:
    """An array of a shape, whose bytes must be there."""
    if not isinstance(dtype, DType) or sizes(shape) is None:
        raise Refusal("a numpy array of a type or shape that cannot be read; the file is damaged")
    if dtype.numpy().hasobject:
        if not isinstance(data, list) or len(data) != math.prod(shape):
            raise Refusal(f"a numpy array of objects without {math.prod(shape)} objects; the file is damaged")
        objects = np.empty(len(data), dtype=object)
        for index, value in enumerate(data):
            objects[index] = value
        return objects.reshape(shape, order=order)  # type: ignore[call-overload]
    data = data.encode("latin1") if isinstance(data, str) else data
    wanted = math.prod(shape) * dtype.numpy().itemsize
    if not isinstance(data, (bytes, bytearray)) or len(data) != wanted:
        raise Refusal(f"a numpy array of shape {shape[:4]} needs {wanted} bytes and does not have them")
    return np.frombuffer(bytearray(data), dtype.numpy()).reshape(shape, order=order)  # type: ignore[call-overload]


def dtype(text: Any, *_: Any) -> DType:
    """A plain number or text type; structured ones are refused."""
    if isinstance(text, Name) and text.path.startswith("numpy."):
        text = np.dtype(SCALAR_TYPES[text.path[6:]]).str if text.path[6:] in SCALAR_TYPES else None
    if not isinstance(text, str) or not PLAIN.fullmatch(text):
        shown = text[:20] if isinstance(text, str) else type(text).__name__
        raise Refusal(f"a numpy type {shown!r}; expected plain numbers")
    return DType("O" if text.endswith("O8") else text)


def scalar(kind: Any, data: Any = None) -> Any:
    """A numpy number as Python's."""
    value = make_array(data if isinstance(data, (bytes, str)) else [data], kind, (1,), "C")[0]
    return value.item() if isinstance(value, np.generic) else value


def from_buffer(data: Any, kind: Any, shape: Any, order: Any = "C") -> Any:
    """Protocol 5's arrays."""
    return make_array(data, kind, shape, "F" if order == "F" else "C")


SCALAR_TYPES = {n: n for n in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16")}
SCALAR_TYPES |= {"uint32": "uint32", "uint64": "uint64", "bool_": "bool", "bool": "bool"}

NUMPY_CALLS: dict[str, Callable[..., Any]] = {"numpy.dtype": dtype}
for _core in ("numpy.core", "numpy._core"):
    NUMPY_CALLS[f"{_core}.multiarray._reconstruct"] = lambda *_: PendingArray()
    NUMPY_CALLS[f"{_core}.multiarray.scalar"] = scalar
    NUMPY_CALLS[f"{_core}.numeric._frombuffer"] = from_buffer
