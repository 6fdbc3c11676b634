"""Optimizers and learning-rate schedules of the published recipes."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from segproto.training.stage import Optimise, ParamGroup

POWERS = {"constant": 0.0, "poly": 0.9, "linear": 1.0}


def build_optimizer(stage: Optimise, groups: list[ParamGroup]) -> Optimizer:
    """Plain Adam (weight decay coupled as L2, as published), AdamW, or SGD with the stage's momentum."""
    options = [{"params": g.params, "lr": g.lr, "weight_decay": g.weight_decay} for g in groups]
    if stage.optimizer == "adam":
        return torch.optim.Adam(options)
    if stage.optimizer == "adamw":
        return torch.optim.AdamW(options)
    return torch.optim.SGD(options, lr=0.0, momentum=stage.momentum)


def lr_factor(stage: Optimise, step: int) -> float:
    """What the learning rates are multiplied by at an optimizer step.

    ``poly``: ``(1 - t / T) ** 0.9`` with T the stage's optimizer steps or its ``horizon``; ``linear``: with power 1.
    Linear warm-up over the first ``warmup_steps``.

    Args:
        stage: names the schedule.
        step: optimizer steps taken before this one, 0..T-1.
    """
    total = stage.horizon or stage.steps // stage.accumulate
    factor: float = (1 - min(step, total - 1) / total) ** POWERS[stage.schedule]
    if step < stage.warmup_steps:
        factor *= (step + 1) / stage.warmup_steps
    return factor


def set_lr(optimizer: Optimizer, groups: list[ParamGroup], factor: float) -> None:
    """Sets each group's learning rate to its own one times ``factor``."""
    for target, group in zip(optimizer.param_groups, groups, strict=True):
        target["lr"] = group.lr * factor
