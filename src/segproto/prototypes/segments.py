"""Sums and extremes over the pixels of each class (or prototype), all classes at once."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 256  # rows a partial sum: spreads a large class over threads and keeps float32 sums accurate


class Reduce(Protocol):
    """Makes several processes agree: the element-wise sum or maximum of a tensor over all of them, on each of them.

    The function that takes it calls it equally often on every process, whatever its pixels (none, or all void).
    """

    def __call__(self, tensor: Tensor, op: Literal["sum", "max"] = "sum") -> Tensor: ...


def one_process(tensor: Tensor, op: Literal["sum", "max"] = "sum") -> Tensor:
    """The :class:`Reduce` of a single process: the tensor itself."""
    return tensor


def occurrences(ids: Tensor, count: int) -> Tensor:
    """How often each of ``0 .. count - 1`` is among ``ids`` (int64, any shape): int64 (count,).

    ``bincount`` looks for the largest id first, and the host waits for a GPU to find it.
    """
    flat = ids.flatten()
    if flat.device.type == "cpu":
        return torch.bincount(flat, minlength=count)
    return flat.new_zeros(count).index_add_(0, flat, torch.ones_like(flat))


class Segments:
    """Rows grouped by an id, by one sort; shapes never depend on the ids, so nothing waits for a device.

    Sums run in a fixed order, hence give the same bits every time, on every device.

    Args:
        ids: (N,) int64 in 0..count; rows with id ``count`` belong to no segment and are never read.
        count: S, number of segments.

    Attributes:
        counts: (S,) int64 rows in each segment.
    """

    def __init__(self, ids: Tensor, count: int) -> None:
        self.count = count
        self.ids = ids
        grouped, order = ids.sort(stable=True)
        starts = torch.searchsorted(grouped, torch.arange(count + 1, device=ids.device))
        self.counts = starts.diff()
        chunks = torch.arange(0, len(ids) + _CHUNK, _CHUNK, device=ids.device).clamp_max_(len(ids))
        self._order = torch.where(grouped < count, order, 0)
        self._cuts = torch.cat([starts, chunks]).sort().values
        self._first = torch.searchsorted(self._cuts, starts)  # the first chunk of each segment, then of the rest

    def sum(self, values: Tensor) -> Tensor:
        """Sum of the rows (N, D) of each segment: (S, D), 0 for an empty one; no gradient flows."""
        if len(values) == 0:
            return values.new_zeros(self.count, *values.shape[1:])
        parts = F.embedding_bag(self._order, values.detach(), self._cuts, mode="sum", include_last_offset=True)
        index = torch.arange(len(parts), device=values.device)
        return F.embedding_bag(index, parts, self._first, mode="sum")[: self.count]

    def max(self, values: Tensor) -> Tensor:
        """Maximum of the rows (N, D) of each segment: (S, D), -inf for an empty one."""
        width = values.shape[1]
        out = values.new_full(((self.count + 1) * width,), -torch.inf)
        index = self.ids[:, None] * width + torch.arange(width, device=values.device)
        out.scatter_reduce_(0, index.flatten(), values.detach().flatten(), "amax")  # 1-D: 10 times faster on a CPU
        return out.view(-1, width)[: self.count]

    def argmax(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Of values (N,), each segment's largest and its lowest row number.

        Returns:
            values (S,), -inf for an empty segment; rows (S,) int64, N where empty or where all values are -inf.
        """
        best = self.max(values[:, None])[:, 0]
        own = F.pad(best, (0, 1), value=torch.inf)[self.ids]
        rows = torch.arange(len(values), device=values.device)
        rows = torch.where((values == own) & torch.isfinite(own), rows, len(values))
        first = torch.full((self.count + 1,), len(values), device=values.device)
        return best, first.scatter_reduce_(0, self.ids, rows, "amin")[: self.count]
