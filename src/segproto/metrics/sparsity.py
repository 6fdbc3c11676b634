"""How many prototypes a person must look at to understand one class (Porta et al. 2025, section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

THRESHOLDS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def active_prototypes(readout: Tensor, groups: Tensor | None, threshold: float) -> Tensor:
    """Prototypes that bear on each class's logit: int64 (C,).

    Args:
        readout: (C, U) weights of prototypes, or of groups.
        groups: (U, P) weights of the prototypes in each group; None if the readout weighs prototypes.
        threshold: only units with an absolute readout weight above this count.
    """
    used = readout.abs() > threshold
    if groups is None:
        return used.sum(1)
    return (used.float() @ (groups != 0).float() > 0).sum(1)


def sparsity(readout: Tensor, groups: Tensor | None, thresholds: Sequence[float] = THRESHOLDS) -> list[dict[str, Any]]:
    """The mean over classes of :func:`active_prototypes`, at several thresholds (the published one is unknown).

    Returns:
        One ``{"threshold", "value", "per_class"}`` per threshold.
    """
    counts = [(limit, active_prototypes(readout.detach(), groups, limit)) for limit in thresholds]
    return [
        {"threshold": limit, "value": float(per_class.to(torch.float64).mean()), "per_class": per_class.tolist()}
        for limit, per_class in counts
    ]
