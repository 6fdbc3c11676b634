"""Random walk of class scores over cell affinities (Ahn and Kwak 2018, section 3.3), by sparse products.

Why by rows: every cell receives from a fixed number of neighbours, so T is a table of cells and weights and a product
is a weighted sum of gathered rows: no sum depends on the order of threads, on a GPU neither. The weights of a cell sum
to 1, so scores stay within their range however many steps are taken; the diagonal of A is 1, so the sum that they are
divided by is never below 1, also where ``A^beta`` underflows to 0. Memory: D weights per cell (69 at radius 5) instead
of h*w.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.refine.affinity import Pairs


@torch.no_grad()
def random_walk(scores: Tensor, affinities: Tensor, pairs: Pairs, *, beta: float = 8.0, log_steps: int = 6) -> Tensor:
    """``scores T^(2^log_steps)`` with ``T = A^beta`` divided by its column sums; A has 1 on its diagonal.

    One product of the K score rows with the sparse T per step: 64 steps cost less than one product of two dense
    matrices, and no (hw, hw) matrix is made.

    Args:
        scores: (N, K, h, w) float.
        affinities: (N, E) of ``pairs``, 0..1.
        pairs: of the (h, w) grid.
        beta: > 0; sharpens affinities.
        log_steps: t = 2^log_steps products.

    Returns:
        (N, K, h, w) float32; a score's range is kept.

    Examples:
        Three cells in a row; the first two belong together, the third does not:

        >>> import torch
        >>> from segproto.refine.affinity import affinity, cell_pairs
        >>> pairs = cell_pairs(1, 3, radius=2)
        >>> values = affinity(torch.tensor([0.0, 0.0, 9.0]).view(1, 1, 1, 3), pairs)
        >>> random_walk(torch.tensor([1.0, 0.0, 0.0]).view(1, 1, 1, 3), values, pairs).flatten().round(decimals=4)
        tensor([0.5000, 0.5000, 0.0000])
    """
    n, k, h, w = scores.shape
    neighbours, weights = transitions(affinities.float(), pairs, beta)
    cells = torch.arange(n, device=scores.device)[:, None, None] * (h * w)
    neighbours, weights = (neighbours + cells).flatten(0, 1), weights.flatten(0, 1)
    state = scores.float().movedim(1, 3).reshape(n * h * w, k)
    for _ in range(2**log_steps):
        state = F.embedding_bag(neighbours, state, mode="sum", per_sample_weights=weights)
    return state.view(n, h, w, k).movedim(3, 1)


def transitions(affinities: Tensor, pairs: Pairs, beta: float) -> tuple[Tensor, Tensor]:
    """Columns of T as lists: from where a cell receives, and how much.

    Args:
        affinities: (N, E).
        pairs: of the grid.
        beta: exponent.

    Returns:
        Cells (h*w, D) int64 and weights (N, h*w, D), whose rows sum to 1; D is twice the number of offsets, plus
        itself. Absent neighbours are the cell itself with weight 0.
    """
    h, w = pairs.size
    count, device = len(pairs.windows), affinities.device
    own = torch.arange(h * w, device=device)
    neighbours = own[:, None].repeat(1, 2 * count + 1)
    weights = affinities.new_zeros(len(affinities), h * w, 2 * count + 1)
    weights[..., -1] = 1
    powered, start = affinities**beta, 0
    for i, (a, b) in enumerate(pairs.ends(own.view(h, w))):
        first, second = a.flatten(), b.flatten()
        value = powered[:, start : start + len(first)]
        neighbours[second, 2 * i], neighbours[first, 2 * i + 1] = first, second
        weights[:, second, 2 * i], weights[:, first, 2 * i + 1] = value, value
        start += len(first)
    return neighbours, weights / weights.sum(2, keepdim=True)


def dense_affinity(affinities: Tensor, pairs: Pairs) -> Tensor:
    """The symmetric matrix A with 1 on its diagonal, for looking at: (E,) to (h*w, h*w)."""
    size = pairs.size[0] * pairs.size[1]
    first, second = (index.to(affinities.device) for index in pairs.indices())
    matrix = torch.eye(size, dtype=affinities.dtype, device=affinities.device)
    matrix[first, second] = affinities
    matrix[second, first] = affinities
    return matrix
