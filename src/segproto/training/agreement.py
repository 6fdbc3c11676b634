"""Sums and maxima over all processes of a run."""

from __future__ import annotations

from typing import Literal

import torch.distributed as dist
from torch import Tensor

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
