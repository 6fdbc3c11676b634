"""How a prototype is compared with a feature (Sacha et al. 2023, Porta et al. 2025; section 3.1 of both)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segproto.prototypes.numerics import exact_float32
from segproto.prototypes.pieces import plain_inference

CENTRE = 0.5
EPSILON = 1e-4
NEAR = 0.1  # below this the rounding of the expanded form (1e-6) moves the log activation by more than 1e-5
FEW = 1 / 256  # of all distances: more near ones than that are computed together
CHUNK = 2**24  # numbers held at once when near distances are computed directly


def squared_distances(features: Tensor, vectors: Tensor, scale_ranges: Sequence[tuple[int, int]]) -> Tensor:
    """Squared Euclidean distance of every prototype to every cell of its own scale.

    Uses ``|x|^2 - 2 x.p + |p|^2`` in float32, with both sides centred by 0.5 first: that leaves the distance unchanged
    and keeps an exact match exact (to about 1e-6) for features in (0, 1). Without gradients, distances below 0.1 are
    then computed again without that loss of digits: the rounding of a matrix product depends on how many cells it
    holds, and near a match, where the log activation is steep, a cell's explanation would differ from its logit.

    Args:
        features: (B, S*D, h, w), scales side by side in channel blocks of D.
        vectors: (P, D), prototypes ordered by scale.
        scale_ranges: one (start, end) of prototype indices per scale; together they cover 0..P.

    Returns:
        (B, P, h, w) float32 (float64 for float64 features), >= 0.

    Raises:
        ValueError: if the features do not have S*D channels.

    Examples:
        Two scales of two channels each, a prototype in each, one cell:

        >>> import torch
        >>> features = torch.tensor([0.1, 0.2, 0.8, 0.9]).view(1, 4, 1, 1)
        >>> vectors = torch.tensor([[0.1, 0.2], [0.8, 0.4]])
        >>> squared_distances(features, vectors, [(0, 1), (1, 2)]).flatten()
        tensor([0.0000, 0.2500])
    """
    _, channels, height, width = features.shape
    if channels != len(scale_ranges) * vectors.shape[1]:
        raise ValueError(f"features have {channels} channels, expected {len(scale_ranges)} scales x {vectors.shape[1]}")
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    cells = features.to(dtype).flatten(2)  # a view for channels-last features too
    out: Tensor = _SquaredDistances.apply(cells, vectors.to(dtype), tuple(scale_ranges))
    if plain_inference():
        _sharpen(out, cells, vectors.to(dtype), scale_ranges)
    return out.view(*out.shape[:2], height, width)


def _sharpen(distances: Tensor, cells: Tensor, vectors: Tensor, scale_ranges: Sequence[tuple[int, int]]) -> None:
    """Gives near distances (B, P, N) the digits that the expanded form lost, in place.

    Few of them are computed one by one, as sums of squared differences. Many, as of features that collapsed, would take
    a hundred times the matrix product so: then that product is repeated in float64, whose rounding (1e-16) is below
    what float32 shows of any distance. Either way the work is at most about that of the distances themselves.
    """
    x = _by_scale(cells, len(scale_ranges))
    for scale, (a, b) in enumerate(scale_ranges):
        part, own = distances[:, a:b], x[:, scale]
        if part.numel() == 0 or float(part.amin()) >= NEAR:
            continue
        near = part < NEAR
        count = int(near.count_nonzero())
        if count > FEW * part.numel() and cells.device.type != "mps":  # which has no float64
            _sharpen_many(part, own, vectors[a:b])
        else:
            rows = own.transpose(1, 2).contiguous()  # of a cell, side by side: single columns are slow to gather
            for image, prototype, cell in (
                p.unbind(1) for p in torch.split(near.nonzero(), max(1, CHUNK // vectors.shape[1]))
            ):
                difference = rows[image, cell] - vectors[a + prototype]
                distances[image, a + prototype, cell] = difference.square_().sum(1)


def _sharpen_many(distances: Tensor, cells: Tensor, vectors: Tensor) -> None:
    """:func:`_sharpen` of one scale: distances (B, M, N) of cells (B, D, N) and vectors (M, D), in float64."""
    p = vectors.double() - CENTRE
    step = max(1, CHUNK // 2 // max(1, distances[..., 0].numel()))
    for near, part in zip(torch.split(distances, step, 2), torch.split(cells, step, 2), strict=True):
        y = part.double().sub_(CENTRE)
        exact = torch.baddbmm(p.square().sum(1)[:, None], p.expand(len(y), -1, -1), y, alpha=-2)
        exact += y.square_().sum(1, keepdim=True)
        near.copy_(torch.where(near < NEAR, exact.relu_().to(near.dtype), near))


class _SquaredDistances(torch.autograd.Function):
    """Distances (B, P, N) of cells (B, S*D, N), in one matrix product per scale; the backward pass likewise.

    Plain operations would keep a centred copy of the features and their squares for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, cells: Tensor, vectors: Tensor, scale_ranges: tuple[tuple[int, int], ...]) -> Tensor:
        with exact_float32(cells.device):
            x, p = _by_scale(cells - CENTRE, len(scale_ranges)), vectors - CENTRE
            norms = p.square().sum(1)[:, None]
            out = x.new_empty(len(cells), len(vectors), cells.shape[2])
            for scale, (a, b) in enumerate(scale_ranges):
                out[:, a:b] = norms[a:b]
                out[:, a:b].baddbmm_(p[a:b].expand(len(x), -1, -1), x[:, scale], alpha=-2)
            squares = x.square_().sum(2)  # in place: the centred copy is not needed any more
            for scale, (a, b) in enumerate(scale_ranges):
                out[:, a:b] += squares[:, scale, None]
            out.relu_()
        ctx.save_for_backward(cells, vectors)
        ctx.scale_ranges = scale_ranges
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        cells, vectors = ctx.saved_tensors
        need_cells, need_vectors, _ = ctx.needs_input_grad
        with exact_float32(cells.device):
            # d/dx = 2 (x - p) and d/dp = 2 (p - x), also where rounding was clamped at 0
            x = _by_scale(cells, len(ctx.scale_ranges))
            grad_cells = torch.empty_like(cells) if need_cells else None
            grad_vectors = 2 * vectors * grad.sum((0, 2))[:, None] if need_vectors else None
            for scale, (a, b) in enumerate(ctx.scale_ranges):
                part = grad[:, a:b]
                if grad_cells is not None:
                    block = _by_scale(grad_cells, len(ctx.scale_ranges))[:, scale]
                    torch.mul(x[:, scale], 2 * part.sum(1, keepdim=True), out=block)
                    block.baddbmm_(vectors[a:b].T.expand(len(x), -1, -1), part, alpha=-2)
                if grad_vectors is not None:
                    grad_vectors[a:b] -= 2 * torch.bmm(part, x[:, scale].transpose(1, 2)).sum(0)
        return grad_cells, grad_vectors, None


def _by_scale(cells: Tensor, num_scales: int) -> Tensor:
    """(B, S*D, N) as (B, S, D, N), a view for any layout."""
    return cells.unflatten(1, (num_scales, -1))  # type: ignore[no-untyped-call, no-any-return]


def log_activation(distances: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Similarity ``ln((d + 1) / (d + epsilon))`` of squared distances d >= 0 (Sacha et al. 2023).

    Falls from ``-ln(epsilon)`` (9.2103 at an exact match) to 0. Same shape as ``distances``.

    Why float32 and near distances by themselves (:func:`squared_distances`): the slope at d is about ``-1 / (d +
    epsilon)``, -1e4 at a match, so an error of 1e-6 in d moves the activation by 0.01 there and by nothing one can see
    at d = 1.
    """
    out: Tensor = _LogActivation.apply(distances, epsilon)
    return out


def log_activation_(distances: Tensor, epsilon: float = EPSILON) -> Tensor:
    """:func:`log_activation` in place, where no gradient is wanted: one map less to carry through the caches."""
    return _log_of_shifted(distances.add_(epsilon), epsilon)


def _log_of_shifted(shifted: Tensor, epsilon: float) -> Tensor:
    """``ln((d + 1) / (d + epsilon))`` of ``d + epsilon``, in place: the logarithm of 1 + (1 - epsilon) / shifted."""
    return shifted.reciprocal_().mul_(1 - epsilon).log1p_()


class _LogActivation(torch.autograd.Function):
    """Keeps only the distances for the backward pass, where plain operations would keep three maps of their size."""

    @staticmethod
    def forward(ctx: Any, distances: Tensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(distances)
        ctx.epsilon = epsilon
        return _log_of_shifted(distances + epsilon, epsilon)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (distances,) = ctx.saved_tensors
        slope = (distances + 1).mul_(distances + ctx.epsilon).reciprocal_().mul_(ctx.epsilon - 1)
        return slope.mul_(grad), None
