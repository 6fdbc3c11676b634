"""Labels on the feature grid, by exactly the rule of PIL's NEAREST filter."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

IGNORE_INDEX = 255  # void: pixels that count for nothing, everywhere; classes are 0..C-1


@lru_cache(maxsize=256)
def nearest_table(source: int, target: int, device: torch.device | None = None) -> Tensor:
    """Source index of each of ``target`` samples: int64 (target,), on ``device``.

    PIL truncates an accumulated double coordinate (r/2, then += r with r = source/target). Computing ``(i + 1/2) * r``
    instead differs where a centre falls on an integer (2048 -> 257: index 128 is 1023, not 1024).
    """
    ratio = source / target
    steps = np.full(target, ratio)
    steps[0] = 0.5 * ratio
    index = np.add.accumulate(steps).astype(np.int64)  # accumulate adds one after another, as PIL does
    return torch.from_numpy(np.minimum(index, source - 1)).to(device or "cpu")


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resamples integer labels (..., H, W) to (..., h, w), bit for bit as PIL's NEAREST does."""
    height, width = labels.shape[-2:]
    if (height, width) == tuple(size):
        return labels
    rows = nearest_table(height, size[0], labels.device)
    columns = nearest_table(width, size[1], labels.device)
    return labels[..., rows[:, None], columns]


def borders(labels: Tensor) -> Tensor:
    """bool (h, w): cells of a label map (h, w) whose left or upper neighbour has another label; on the CPU."""
    labels = labels.cpu()
    edge = torch.zeros(labels.shape, dtype=torch.bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    return edge
