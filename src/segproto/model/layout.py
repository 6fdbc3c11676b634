"""How the weights of convolutions lie in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def channels_last(model: nn.Module) -> Iterator[None]:
    """Convolutions see channels side by side, as in training, for as long as a block lasts; they are faster for it."""
    order, tensors = torch.channels_last, [*model.parameters(), *model.buffers()]
    before = [(one, one.data) for one in tensors if one.dim() == 4 and not one.is_contiguous(memory_format=order)]
    try:
        for tensor, data in before:
            tensor.data = data.contiguous(memory_format=order)
        yield
    finally:
        for tensor, data in before:
            tensor.data = data
