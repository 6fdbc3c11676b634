"""How the weights of convolutions lie in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def channels_last(model: nn.Module) -> Iterator[None]:
    """Convolutions see channels side by side, as in training, for as long as a block lasts; they are faster for it."""
    order = torch.channels_last
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    weights = {weight for layer in layers if (weight := layer._parameters.get("weight")) is not None}
    before = [(weight, weight.data) for weight in weights if not weight.is_contiguous(memory_format=order)]
    try:
        for weight, data in before:
            weight.data = data.contiguous(memory_format=order)
        yield
    finally:
        for weight, data in before:
            weight.data = data
