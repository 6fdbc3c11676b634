"""Building a model from what a file says of it, without believing how large it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from segproto.errors import WeightsError

FACTOR, FREE = 4, 1 << 28  # bytes that may be made for each byte of the file's tensors, and beside them
# What makes a tensor of a size it is told: as arguments, as one of them, or by name.
FACTORIES = frozenset({
    torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.empty_strided, torch.eye,
    torch.Tensor.new_empty, torch.Tensor.new_zeros, torch.Tensor.new_ones, torch.Tensor.new_full,
})  # fmt: skip


@contextmanager
def bounded(source: object, stored: int) -> Iterator[None]:
    """Refuses to make more tensors inside the block than a file's own tensors justify, before they are made.

    Args:
        source: the file, for the message.
        stored: bytes of its tensors.

    Raises:
        WeightsError: it describes something larger.
    """
    limit = FACTOR * stored + FREE
    with _Counting(limit, f"{source}: describes tensors of more than {limit >> 20} MiB, but holds {stored >> 20} MiB"):
        yield


class _Counting(TorchFunctionMode):
    def __init__(self, limit: int, message: str) -> None:
        super().__init__()
        self.left, self.message = limit, message

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in FACTORIES:
            self.left -= cells(args, kwargs) * (kwargs.get("dtype") or torch.get_default_dtype()).itemsize
            if self.left < 0:
                raise WeightsError(self.message)
        return func(*args, **kwargs)


def cells(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """At most how many numbers a factory called so makes."""
    sizes = [value for value in (*args, *kwargs.values()) if isinstance(value, int | list | tuple)]
    nested = [part for value in sizes for part in (value if isinstance(value, list | tuple) else (value,))]
    return math.prod(max(1, abs(part)) for part in nested if type(part) is int)
