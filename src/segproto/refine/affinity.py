"""Pairs of neighbouring cells and their semantic affinity (Ahn and Kwak 2018, AffinityNet)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segproto.prototypes.labels import IGNORE_INDEX

EPSILON = 1e-5


@dataclass(frozen=True)
class Pairs:
    """Pairs of cells of an (h, w) grid at most ``radius - 1`` apart, offset by offset.

    Attributes:
        size: (h, w).
        windows: for each offset (dy, dx), the first cells' rows and columns ``(dy, dx, top, bottom, left, right)``; a
            first cell (y, x) pairs with (y + dy, x + dx).
    """

    size: tuple[int, int]
    windows: tuple[tuple[int, int, int, int, int, int], ...]

    def __len__(self) -> int:
        return sum((bottom - top) * (right - left) for _, _, top, bottom, left, right in self.windows)

    def ends(self, maps: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of (..., h, w), for each offset the values (..., a, b) of the first and of the second cells (views)."""
        return [
            (maps[..., t:b, left:r], maps[..., t + dy : b + dy, left + dx : r + dx])
            for dy, dx, t, b, left, r in self.windows
        ]

    def indices(self) -> tuple[Tensor, Tensor]:
        """Row-major cell numbers of the first and the second cells, (E,) int64 each, offset by offset."""
        h, w = self.size
        first, second = zip(*self.ends(torch.arange(h * w).view(h, w)), strict=True) if self.windows else ((), ())
        return torch.cat([f.flatten() for f in first]), torch.cat([s.flatten() for s in second])


def cell_pairs(height: int, width: int, radius: int = 5, *, complete: bool = True) -> Pairs:
    """The pairs (dy, dx) with ``dx^2 + dy^2 < radius^2``, each once: 34 offsets at radius 5.

    Args:
        height: h of the grid.
        width: w.
        radius: in cells, >= 2.
        complete: every pair inside the grid. False, as published: only pairs whose first cell is in rows 0..h-r and
            columns r-1..w-r, so that corner cells have no partner; on small grids the radius shrinks.
    """
    if not complete and min(height, width) < 2 * radius + 1:
        radius = (min(height, width) - 1) // 2
    offsets = [(0, dx) for dx in range(1, radius)]
    offsets += [
        (dy, dx) for dy in range(1, radius) for dx in range(1 - radius, radius) if dx * dx + dy * dy < radius * radius
    ]
    windows = []
    for dy, dx in offsets:
        if complete:
            window = (0, height - dy, max(0, -dx), width - max(0, dx))
        else:
            window = (0, height - radius + 1, radius - 1, width - radius + 1)
        if window[1] > window[0] and window[3] > window[2]:
            windows.append((dy, dx, *window))
    return Pairs((height, width), tuple(windows))


def affinity(features: Tensor, pairs: Pairs) -> Tensor:
    """``exp(-mean_c |u_first - u_second|)`` of every pair (Ahn and Kwak 2018, eq. 2).

    Args:
        features: (N, C, h, w) float.
        pairs: of that grid.

    Returns:
        (N, E) in 0..1, with gradient; the differences are made anew for it, not kept (1.2 GB at 8 x 448 x 56 x 56).
    """
    result: Tensor = _Affinity.apply(features, pairs)
    return result


class _Affinity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, pairs: Pairs) -> Tensor:
        parts = [(a - b).abs_().mean(1).neg_().exp_().flatten(1) for a, b in pairs.ends(features)]
        result = torch.cat(parts, 1) if parts else features.new_zeros(len(features), 0)
        ctx.save_for_backward(features, result)
        ctx.pairs = pairs
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        features, result = ctx.saved_tensors
        out = torch.zeros_like(features)
        scale = gradient * result / -features.shape[1]
        start = 0
        for (a, b), (to_a, to_b) in zip(ctx.pairs.ends(features), ctx.pairs.ends(out), strict=True):
            count = a.shape[-2] * a.shape[-1]
            step = (a - b).sign_().mul_(scale[:, None, start : start + count].unflatten(2, a.shape[-2:]))
            to_a.add_(step)
            to_b.sub_(step)
            start += count
        return out, None


def affinity_targets(low: Tensor, high: Tensor) -> Tensor:
    """Labels to learn affinity from: sure foreground, sure background, the rest void (Ahn and Kwak 2018, section 3.2).

    Args:
        low: (N, K, h, w) scores after a CRF with a strong background (small alpha); channel 0 = background.
        high: same with a weak background (large alpha).

    Returns:
        (N, h, w) int64: best label of ``low`` if it is foreground, else 0 if ``high`` says background too,
        else 255; 255 where all scores are below 1e-5 (outside the image).
    """
    a, b = low.argmax(1), high.argmax(1)
    labels = torch.where(a == 0, IGNORE_INDEX, a).masked_fill(b == 0, 0)
    return labels.masked_fill(torch.cat([low, high], 1).amax(1) < EPSILON, IGNORE_INDEX)


def pair_labels(labels: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """Which pairs are alike as background, alike as one foreground class, or unlike; those with a void end are none.

    Args:
        labels: (N, h, w) int64, 255 = void.
        pairs: of that grid.

    Returns:
        Three (N, E) bool.
    """
    both = [(a.flatten(1), b.flatten(1)) for a, b in pairs.ends(labels)]
    first, second = torch.cat([a for a, _ in both], 1), torch.cat([b for _, b in both], 1)
    valid = (first < IGNORE_INDEX) & (second < IGNORE_INDEX)
    same = valid & (first == second)
    return same & (first == 0), same & (first != 0), valid & (first != second)


def affinity_loss(values: Tensor, background: Tensor, foreground: Tensor, unlike: Tensor) -> Tensor:
    """Balanced cross-entropy of affinities (Ahn and Kwak 2018, eq. 6): a quarter each of alike, half unlike.

    Args:
        values: (N, E) affinities in 0..1.
        background: (N, E) bool, as the others from :func:`pair_labels`.
        foreground: (N, E) bool.
        unlike: (N, E) bool.

    Returns:
        Scalar >= 0.
    """
    near, far = -(values + EPSILON).log(), -(1 + EPSILON - values).log()

    def mean(cost: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, cost, 0).sum() / (mask.sum() + EPSILON)

    return mean(near, background) / 4 + mean(near, foreground) / 4 + mean(far, unlike) / 2
