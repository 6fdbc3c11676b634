"""Full float32 arithmetic, whatever the surrounding precision settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Switches autocast and TF32 matrix products off inside the block, for one device type.

    Distances cancel large terms and group activations are exponentials: under TF32 an exact match scores about
    6.8 instead of 9.2, and a group 10^3 instead of 10^4.
    """
    with without_autocast(device):
        if device.type != "cuda" or not torch.backends.cuda.matmul.allow_tf32:
            yield
            return
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = True


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocast off, where it is on: the mere switch would be a node of its own in an exported graph, which
    torch 2.6 cannot write.
    """
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


@lru_cache(maxsize=32)
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers as a vector, copied to a device once: a copy in each step would wait for it."""
    return torch.tensor(values, device=device, dtype=dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision to float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()
