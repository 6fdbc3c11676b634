"""Balanced assignment of pixels to the prototypes of their class (Zhou et al. 2022, section 3.2)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.prototypes.numerics import exact_float32
from segproto.prototypes.segments import Reduce, Segments, one_process

AssignMode = Literal["argmax", "gumbel_log", "gumbel_prob_legacy"]
FewMode = Literal["nearest", "balance"]


@torch.no_grad()
def balanced_assignment(
    own: Tensor,
    classes: Tensor,
    num_classes: int,
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
    few: FewMode = "nearest",
    reduce: Reduce = one_process,
) -> Tensor:
    """Sinkhorn-Knopp in every class at once: each class's pixels are spread evenly over its K prototypes.

    ``Q = exp(own / epsilon)``; then ``iterations`` times: divide by the sum over the pixels of the class, divide by the
    sum over the prototypes (Zhou et al. 2022; the constants 1/K and 1/n cancel). Rows end summing to 1, prototypes hold
    about n_c / K. In float32 whatever the autocast. The first exponent is taken relative to each prototype's best pixel
    and each pixel's best prototype, which cancels and leaves no overflow or 0/0 at any epsilon (plain float32 overflows
    from ``own / epsilon = 88.8`` on: a cosine of 1 at an epsilon of 0.011; and a pixel far from all prototypes would
    underflow to a row of zeros). Background: Sinkhorn and Knopp 1967; Cuturi 2013, algorithm 1.

    Args:
        own: (N, K) similarity (cosine, -1..1) of a pixel to the prototypes of its own class.
        classes: (N,) int64 class 0..C-1; C marks a void pixel.
        num_classes: C.
        epsilon: > 0, smoothness (kappa in the paper, 0.05).
        iterations: published: 3.
        few: what a class with fewer than K pixels does: ``nearest`` takes plain ``softmax(own / epsilon)``; ``balance``
            balances all the same, as published (a single pixel then gets a uniform row, so always prototype 0).
        reduce: agreement of several processes on the sums of a class (scope "global"); by default each
            process balances its own pixels, as published (scope "rank"). Called ``iterations + 2`` times.

    Returns:
        Q (N, K), float32 (float64 for float64 input): rows sum to 1, void rows are 0.

    Examples:
        Four pixels of one class, three prototypes, which are shared out evenly:

        >>> import torch
        >>> similarity = torch.tensor([[0.9, 0.8, 0.1], [0.7, 0.75, 0.2], [0.85, 0.4, 0.3], [0.6, 0.65, 0.62]])
        >>> balanced_assignment(similarity, torch.zeros(4, dtype=torch.int64), num_classes=1).argmax(1)
        tensor([1, 1, 0, 2])
    """
    with exact_float32(own.device):
        void = (classes == num_classes)[:, None]
        logits = own.to(_float(own)).masked_fill(void, 0) / epsilon
        segments = Segments(classes, num_classes)
        size = reduce(segments.counts.to(logits.dtype))[:, None]
        plain = size < (own.shape[1] if few == "nearest" else 0)  # without the class's sums, what is left is a softmax
        peak = torch.where(plain, 0, reduce(segments.max(logits), "max"))
        relative = (logits - _of_pixels(peak, classes)).masked_fill_(void, 0)
        shift = relative.amax(1, keepdim=True)
        q = torch.exp(relative - shift)
        weighted = q * shift.exp()  # the pixel shift must not count in the first sum
        for _ in range(iterations):
            total = torch.where(plain, 1, reduce(segments.sum(weighted)))
            q = q / _of_pixels(total, classes)
            q = weighted = q.div_(q.sum(1, keepdim=True))
        return q.masked_fill_(void, 0)


@torch.no_grad()
def choose(assignment: Tensor, mode: AssignMode = "argmax", generator: torch.Generator | None = None) -> Tensor:
    """One prototype per pixel, from Q.

    Args:
        assignment: (N, K) of :func:`balanced_assignment`.
        mode: ``argmax``: the largest; ``gumbel_log``: drawn with probability Q; ``gumbel_prob_legacy``: drawn with
            probability ``softmax(Q)``, the published code's slip, which makes the prototypes of a class collapse.
        generator: random numbers of the drawn modes.

    Returns:
        (N,) int64 in 0..K-1.
    """
    if mode == "argmax":
        return assignment.argmax(1)
    noise = torch.empty_like(assignment).exponential_(generator=generator).log()
    logits = assignment.log() if mode == "gumbel_log" else assignment
    return (logits - noise).argmax(1)


def own_similarities(similarities: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Each pixel's similarity to the prototypes of its own class, as a gather: no other copy of the similarities.

    Args:
        similarities: (N, C*K), contiguous, class by class: column ``c*K + k``.
        classes: (N,) int64 class 0..C-1, C = void.
        num_classes: C.

    Returns:
        (N, K); void rows hold those of class C-1.
    """
    rows = torch.arange(len(classes), device=classes.device) * num_classes + classes.clamp_max(num_classes - 1)
    return F.embedding(rows, similarities.detach().view(-1, similarities.shape[1] // num_classes))


def pixel_classes(labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Labels with ``num_classes`` for what takes no part: ``ignore_index`` and anything outside 0..C-1."""
    void = (labels == ignore_index) | (labels < 0) | (labels >= num_classes)
    return labels.masked_fill(void, num_classes)


def _float(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _of_pixels(rows: Tensor, classes: Tensor) -> Tensor:
    """Of (C, K), the row of each pixel's class: (N, K); ones for void."""
    return F.pad(rows, (0, 0, 0, 1), value=1).index_select(0, classes)
