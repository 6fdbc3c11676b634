"""The one thing a loss receives: a batch of normalised images (or cached features) and masks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A training batch.

    Attributes:
        masks: int64 (B, H, W), 255 = void.
        images: float32 (B, N, H, W), normalised; None when ``features`` is given.
        features: float (B, D, h, w), cached output of a frozen backbone; None when ``images`` is given.
        names: image names.
    """

    masks: Tensor
    images: Tensor | None = None
    features: Tensor | None = None
    names: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Batch:
        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device, non_blocking=True)

        masks = self.masks.to(device, non_blocking=True)
        return replace(self, masks=masks, images=move(self.images), features=move(self.features))
