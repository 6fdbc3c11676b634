"""Steps that mixed precision skips: what goes with a step must be skipped with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def loss_scale(fabric: Fabric) -> Tensor | None:
    """The gradient scaler's present scale, a copy on the device; None without a scaler.

    It shrinks exactly at the steps that are skipped, for gradients that are not finite.
    """
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    scale: Tensor | None = getattr(scaler, "_scale", None)  # get_scale() would wait for the device
    return None if scale is None else scale.clone()


@contextmanager
def undone_if_skipped(before: Tensor | None, after: Tensor | None, model: nn.Module) -> Iterator[None]:
    """Buffers keep what the block does to them only if the step before it was taken; without asking the device.

    Args:
        before: :func:`loss_scale` before the optimizer step; None = the step was taken.
        after: and after it.
        model: whose buffers (moving prototypes) the block changes.
    """
    if before is None or after is None:
        yield
        return
    buffers = list(model.buffers())
    kept = [buffer.clone() for buffer in buffers]
    yield
    skipped = after < before
    with torch.no_grad():
        for buffer, old in zip(buffers, kept, strict=True):
            buffer.copy_(torch.where(skipped.to(buffer.device), old, buffer))
