"""What all processes of a run agree on: sums and maxima, a loss, the running statistics of norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from segproto.prototypes.segments import Reduce, one_process


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def agreement() -> Reduce:
    """The reduction over them; a single process's is the identity."""
    return over_processes if processes() > 1 else one_process


def over_processes(tensor: Tensor, op: Literal["sum", "max"] = "sum") -> Tensor:
    """Element-wise sum or maximum of a tensor over all processes, each of which must call this."""
    out = tensor.detach().clone().contiguous()
    dist.all_reduce(out, dist.ReduceOp.SUM if op == "sum" else dist.ReduceOp.MAX)
    return out


def mean_terms(terms: Mapping[str, Tensor]) -> dict[str, float]:
    """Named scalars, each the mean of those of all processes, whose batches are equally large."""
    values = torch.stack([value.detach().float() for value in terms.values()])
    return dict(zip(terms, (agreement()(values) / processes()).tolist(), strict=True))


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Gives every norm in train mode, in all processes, the mean of their running means and variances.

    Each process moved them by its own batches. As the statistics are linear in those of the batches, their mean after
    every step is that of all batches. In float64, which leaves values that agree already as they are, to the last bit.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.training]
    statistics = [s for norm in norms for s in (norm.running_mean, norm.running_var) if s is not None]
    if processes() == 1 or not statistics:
        return
    mean = over_processes(torch.cat([s.double() for s in statistics])) / processes()
    for own, shared in zip(statistics, torch.split(mean, [len(s) for s in statistics]), strict=True):
        own.copy_(shared)
