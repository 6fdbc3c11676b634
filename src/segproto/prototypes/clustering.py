"""Online clustering: assign labelled pixels to prototypes, move prototypes by momentum (Zhou et al. 2022, section 3.2).

Supervised: a pixel only ever meets the prototypes of its ground-truth class. Nothing here runs at test time.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.prototypes.labels import IGNORE_INDEX
from segproto.prototypes.numerics import exact_float32
from segproto.prototypes.segments import Reduce, Segments, one_process
from segproto.prototypes.sinkhorn import (
    AssignMode,
    FewMode,
    balanced_assignment,
    choose,
    own_similarities,
    pixel_classes,
)

VOID_TARGET = -1
SyncMode = Literal["sum", "average_legacy"]


class Clustering(NamedTuple):
    """What a batch says about the prototypes.

    Attributes:
        targets: (N,) int64, prototype ``c*K + k`` of each pixel by the largest Q, right or wrong; -1 for void.
        sums: (C, K, D) sum of the embeddings of the correct pixels that each prototype got.
        counts: (C, K) how many these were, as float (exact below 2^24), so that batches and processes add up.
        assignment: (N, K) Q, void rows 0.
    """

    targets: Tensor
    sums: Tensor
    counts: Tensor
    assignment: Tensor


@torch.no_grad()
def cluster_pixels(
    embeddings: Tensor,
    similarities: Tensor,
    labels: Tensor,
    predictions: Tensor,
    num_classes: int,
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
    assign: AssignMode = "argmax",
    few: FewMode = "nearest",
    generator: torch.Generator | None = None,
    reduce: Reduce = one_process,
    ignore_index: int = IGNORE_INDEX,
) -> Clustering:
    """Assigns every labelled pixel to a prototype of its class and sums the correct ones (Zhou et al. 2022).

    All labelled pixels share in the balancing; only those whose predicted class is right are summed. No loop over
    classes, no wait for the device, and of the similarities only the (N, K) of the pixel's own class are read.

    Args:
        embeddings: (N, D), L2-normalised rows.
        similarities: (N, C*K) ``embeddings @ prototypes.T``, column ``c*K + k``.
        labels: (N,) int64; ``ignore_index`` and anything outside 0..C-1 is void.
        predictions: (N,) int64 predicted class.
        num_classes: C.
        epsilon: smoothness of the balancing, see :func:`balanced_assignment`.
        iterations: its rounds.
        assign: which prototype's sum a pixel joins, see :func:`choose`; the targets always take the largest Q.
        few: what classes with fewer than K pixels do, see :func:`balanced_assignment`.
        generator: random numbers of the drawn modes.
        reduce: balances over all processes (scope "global"); by default each balances its own pixels. The sums stay
            this process's own: :func:`momentum_update` adds them.
        ignore_index: the void label.

    Returns:
        The clustering; all zeros and -1 where everything is void.

    Raises:
        ValueError: for shapes that do not fit together.
    """
    pixels, columns = similarities.shape
    if columns % num_classes or embeddings.shape[0] != pixels or labels.shape != (pixels,):
        raise ValueError(
            f"expected embeddings (N, D), similarities (N, C*K), labels (N,) with C = {num_classes}; got "
            f"{tuple(embeddings.shape)}, {tuple(similarities.shape)}, {tuple(labels.shape)}"
        )
    classes = pixel_classes(labels, num_classes, ignore_index)
    own = own_similarities(similarities, classes, num_classes)
    q = balanced_assignment(own, classes, num_classes, epsilon=epsilon, iterations=iterations, few=few, reduce=reduce)
    per_class = own.shape[1]
    first = classes * per_class
    largest = q.argmax(1)
    chosen = largest if assign == "argmax" else choose(q, assign, generator)
    void = classes == num_classes
    slots = torch.where(void | (predictions != labels), columns, first + chosen)
    segments = Segments(slots, columns)
    values = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    sums = segments.sum(values).view(num_classes, per_class, -1)
    counts = segments.counts.to(sums.dtype).view(num_classes, per_class)
    return Clustering((first + largest).masked_fill(void, VOID_TARGET), sums, counts, q)


@torch.no_grad()
def momentum_update(
    prototypes: Tensor,
    sums: Tensor,
    counts: Tensor,
    *,
    momentum: float = 0.999,
    sync: SyncMode = "sum",
    reduce: Reduce = one_process,
) -> Tensor:
    """One step of every prototype towards the mean direction of its pixels (Zhou et al. 2022).

    ``p <- normalise(g * p + (1 - g) * normalise(sum))``; a prototype without pixels keeps its value. Once an optimizer
    step: add the sums and counts of accumulated batches first, and skip it when the optimizer step is skipped.
    Returns a new tensor: the old one may still be needed by a backward pass.

    Args:
        prototypes: (C, K, D).
        sums: (C, K, D) of :class:`Clustering`.
        counts: (C, K) of :class:`Clustering`.
        momentum: g in 0..1.
        sync: how processes agree: ``sum`` adds sums and counts, then all take the same step, so that R processes equal
            one with all pixels; ``average_legacy`` steps alone and averages the results, each process one vote, as
            published (rows then have a norm slightly below 1).
        reduce: sum over processes; called once, on one tensor.

    Returns:
        (C, K, D), the same on every process.
    """
    with exact_float32(prototypes.device):
        if sync == "sum":
            if reduce is not one_process:
                packed = reduce(torch.cat([sums, counts[..., None]], dim=-1))
                sums, counts = packed[..., :-1], packed[..., -1]
            return _step(prototypes, sums, counts, momentum)
        alone = _step(F.normalize(prototypes, dim=-1), sums, counts, momentum)
        votes = reduce(torch.cat([alone.flatten(), alone.new_ones(1)]))
        return (votes[:-1] / votes[-1]).view_as(prototypes)


def _step(prototypes: Tensor, sums: Tensor, counts: Tensor, momentum: float) -> Tensor:
    """``normalise(g * normalise(p) + (1 - g) * normalise(f))`` where there are pixels, else p; in few passes."""
    used = counts[..., None] > 0
    keep = torch.where(used, momentum / _length(prototypes), 1)
    pull = torch.where(used, (1 - momentum) / _length(sums), 0)
    moved = torch.addcmul(prototypes * keep, sums, pull)
    return moved.mul_(torch.where(used, 1 / _length(moved), 1))


def _length(rows: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return length.clamp_min_(1e-12)
