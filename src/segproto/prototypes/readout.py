"""The linear readout from prototypes or groups to class logits."""

from __future__ import annotations

import torch
from torch import Tensor


def initial_readout(class_of_unit: Tensor, num_classes: int, on: float = 1.0, off: float = -0.5) -> Tensor:
    """Class-assigned starting weights (Sacha et al. 2023, section 3.2).

    Args:
        class_of_unit: (U,) int64, the class of each prototype or group.
        num_classes: C.
        on: weight between a unit and its own class.
        off: weight between a unit and every other class.

    Returns:
        (C, U) float32.

    Examples:
        >>> import torch
        >>> initial_readout(torch.tensor([0, 0, 1]), num_classes=2)
        tensor([[ 1.0000,  1.0000, -0.5000],
                [-0.5000, -0.5000,  1.0000]])
    """
    own = class_of_unit == torch.arange(num_classes, device=class_of_unit.device)[:, None]
    return torch.where(own, on, off).to(torch.float32)
