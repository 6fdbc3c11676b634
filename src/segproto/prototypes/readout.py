"""The linear readout from prototypes or groups to class logits: as it starts, and fitted to logits that are known."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 100  # of L-BFGS
SHARE = 0.99  # of a group's activations stay as they are in the fit: a prototype's own patch has 1e4, its neighbours 3


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


@torch.no_grad()
def fitted_readout(units: Tensor, logits: Tensor, ridge: float = 1e-3) -> Tensor:
    """The linear readout that comes closest to given logits, in closed form (ridge regression).

    Args:
        units: (N, U), group activations at N cells; the largest 1 % of each group are cut to the next smaller one.
        logits: (N, C) to come close to, up to a number per cell, which no softmax sees.
        ridge: penalty of the squared weights, in units of the mean squared activation.

    Returns:
        (C, U) in the dtype of ``units``.
    """
    x = units.double()
    x = torch.minimum(x, x.kthvalue(max(1, int(SHARE * len(x))), dim=0).values)
    y = logits.double()
    y = y - y.mean(1, keepdim=True)
    gram = x.T @ x
    penalty = ridge * gram.diagonal().mean().clamp_min(1e-12) * torch.eye(len(gram), dtype=x.dtype, device=x.device)
    weight: Tensor = torch.linalg.solve(gram + penalty, x.T @ y).T.to(units.dtype)
    return weight


def distilled_readout(units: Tensor, logits: Tensor, start: Tensor) -> Tensor:
    """The linear readout whose class probabilities come closest to those of given logits (Kullback-Leibler).

    Squared differences of logits (:func:`fitted_readout`) count most where logits are large, where nothing is in doubt.
    Probabilities ask for exactness where classes compete. The problem is convex, and L-BFGS needs no rates.

    Args:
        units: (N, U), group activations at N cells.
        logits: (N, C) whose softmax to come close to.
        start: (C, U), a readout to begin at.

    Returns:
        (C, U), no worse than ``start``.
    """
    wanted = logits.float().softmax(1)
    weight = start.detach().float().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weight], max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe")

    def divergence() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(units.float() @ weight.T, wanted)
        torch.autograd.backward(loss)
        return loss

    with torch.enable_grad():
        optimizer.step(divergence)  # type: ignore[no-untyped-call]
    return weight.detach().to(start.dtype)
