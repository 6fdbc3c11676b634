"""Maps of very many numbers a cell, worked out over so few cells at a time that they stay in the caches of a CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

HELD = 2**20  # numbers of one map of a piece: 4 MB in float32, a few of which lie in a CPU's caches
STEP = 64  # cells: a piece is so many or a multiple, as rows that begin where a vector register does are faster


def plain_inference() -> bool:
    """Whether nothing watches the operations: no gradient, no compilation, no trace of a graph for export."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling() or torch._C._is_tracing())


def by_pieces(function: Callable[[Tensor], Tensor], features: Tensor, width: int) -> Tensor:
    """``function(features)`` of a function that treats each cell alone, in pieces where that is faster.

    Whole maps of hundreds of prototypes are written to memory and read again by each of a dozen operations; pieces of
    them never leave the caches, and the maps are never held. Only where no gradient is wanted: the backward pass needs
    them whole; and on a CPU, as a GPU would wait for the start of each operation.

    Args:
        function: (B, F, h, w) to (B, C, h, w), a cell's result from that cell alone.
        features: (B, F, h, w).
        width: numbers that the function makes of one cell.

    Returns:
        (B, C, h, w), up to the rounding of matrix products of other sizes.
    """
    batch, _, rows, columns = features.shape
    size = max(1, HELD // max(1, batch * width * STEP)) * STEP
    if not plain_inference() or features.device.type != "cpu" or rows * columns <= size:
        return function(features)
    parts = [function(part[:, :, None])[:, :, 0] for part in torch.split(features.flatten(2), size, 2)]
    return torch.cat(parts, 2).view(batch, -1, rows, columns)
