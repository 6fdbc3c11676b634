"""An exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """The averaged floating-point tensors of a model, parameters and buffers.

    Convex constraints (a simplex) that every step keeps hold for the average, too.

    Args:
        model: whose weights are averaged.
        decay: of the average; early on ``(1 + t) / (10 + t)`` where that is smaller.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {key: value.detach().clone() for key, value in self._tensors(model).items()}

    @staticmethod
    def _tensors(model: nn.Module) -> dict[str, Tensor]:
        return {key: value for key, value in model.state_dict().items() if value.is_floating_point()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Takes the weights after optimizer step ``step`` (0-based) into the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in self._tensors(model).items():
            self.average[key].lerp_(value, 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Gives the model the averaged weights."""
        for key, value in self._tensors(model).items():
            value.copy_(self.average[key])

    @torch.no_grad()
    def load(self, average: Mapping[str, Tensor]) -> None:
        """Takes over a stored average."""
        for key, value in self.average.items():
            value.copy_(average[key])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model has the averaged weights inside the block and its own ones after it."""
        own = {key: value.clone() for key, value in self._tensors(model).items()}
        self.copy_to(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for key, value in self._tensors(model).items():
                    value.copy_(own[key])
