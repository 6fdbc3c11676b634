"""Pixel-to-prototype contrast from class activation maps (Du et al. 2022, sections 3.2-3.4).

Prototypes are estimated anew from each batch's most confident pixels; none is a parameter and none is kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.prototypes.numerics import at_least_float32, exact_float32
from segproto.prototypes.segments import occurrences

EPSILON = 1e-5
HARDEST = 0.6  # hard pixels: the hardest 60 % of a class without the very hardest, as many as half the class


class View(NamedTuple):
    """What one view of a batch gives.

    Attributes:
        features: (N*h*w, D) unit rows, with gradient.
        labels: (N*h*w,) int64 pseudo labels.
        prototypes: (C, D) unit rows; zeros for a class without one.
        known: (C,) bool, the classes that have a prototype.
    """

    features: Tensor
    labels: Tensor
    prototypes: Tensor
    known: Tensor


@torch.no_grad()
def pixel_scores(refined: Tensor, background_score: float, background: int = 0) -> Tensor:
    """Maps (N, C, h, w) to scores: each map by its own range to 0..1, the background a constant.

    As published, entries at a map's smallest value come out slightly below 0
    (docs/specs/pixelcontrast.md#scores-prototypes-and-pseudo-labels).
    """
    s = refined.relu()
    low, high = s.amin((2, 3), keepdim=True), s.amax((2, 3), keepdim=True)
    s = torch.where(s < low + EPSILON, 0, s)
    s = (s - low - EPSILON) / (high - low + EPSILON)
    s[:, background] = background_score
    return s


@torch.no_grad()
def pseudo_labels(scores: Tensor, labels: Tensor) -> Tensor:
    """Best present class of every pixel: scores (N, C, h, w), labels (N, C) to (N*h*w,) int64."""
    return (scores * labels[:, :, None, None].to(scores)).argmax(1).flatten()


@torch.no_grad()
def estimate_prototypes(
    scores: Tensor, projections: Tensor, k: int, *, labels: Tensor | None = None, background: int = 0
) -> tuple[Tensor, Tensor]:
    """Mean projection of each class's ``k`` most confident pixels of the batch, by score (Du et al. 2022, eq. 4).

    Args:
        scores: (N, C, h, w) of :func:`pixel_scores`.
        projections: (N, D, h, w), not normalised.
        k: pixels per class.
        labels: (N, C): a class takes pixels only from images that have it, and the background those where no present
            class scores; classes without such pixels have no prototype. None = as published: images without a class
            take part too, and the background, a constant, takes the first ``k`` pixels (ties to the lowest index).
        background: channel.

    Returns:
        (C, D) unit prototypes, and (C,) bool which there are.
    """
    if labels is not None:
        present = labels[:, :, None, None] > 0
        scores = torch.where(present, scores, -1.0)
        others = scores.clone()
        others[:, background] = 0
        scores = scores.clone()
        scores[:, background] = 1 - others.amax(1).clamp(0, 1)
    flat = scores.movedim(1, 0).flatten(1)
    order = flat.sort(dim=1, descending=True, stable=True)
    top, index = order.values[:, :k], order.indices[:, :k]
    if labels is not None:
        top = top.clamp_min(0)
    rows = projections.movedim(1, 3).reshape(-1, projections.shape[1])[index]
    sums = (top[..., None] * rows).sum(1)
    total = top.sum(1, keepdim=True)
    has_pixels = (total > 0)[:, 0] if labels is not None else torch.ones_like(total[:, 0], dtype=torch.bool)
    return F.normalize(sums / torch.where(total == 0, 1, total), dim=1), has_pixels


def view_of(
    projections: Tensor,
    refined: Tensor,
    labels: Tensor,
    *,
    background_score: float = 0.2,
    k: int = 32,
    masked: bool = True,
    background: int = 0,
) -> View:
    """Features, pseudo labels and prototypes of one view.

    Args:
        projections: (N, D, h, w), >= 0, with gradient.
        refined: (N, C, h, w) maps after pixel correlation, same grid.
        labels: (N, C).
        background_score: a pixel is background below it.
        k: pixels per prototype.
        masked: estimate prototypes from images that have the class, and the background's from low scores.
        background: channel.
    """
    scores = pixel_scores(refined.detach(), background_score, background)
    prototypes, has_pixels = estimate_prototypes(
        scores, projections.detach(), k, labels=labels if masked else None, background=background
    )
    features = F.normalize(projections, dim=1).movedim(1, 3).flatten(0, 2)
    return View(features, pseudo_labels(scores, labels), prototypes, has_pixels)


def contrast_losses(first: View, second: View, *, temperature: float = 0.1) -> dict[str, Tensor]:
    """Cross-prototype, cross-CAM and intra-view contrast, each the mean over two views (Du et al. 2022, eq. 5-10).

    Args:
        first: one view.
        second: the other, on the same grid.
        temperature: tau > 0.

    Returns:
        ``cross_prototype``, ``cross_cam`` and ``intra``: scalars >= 0, to be weighted (0.1 each as published).
    """
    a, b = first, second
    own_a, own_b = _similarities(a.features, a, temperature), _similarities(b.features, b, temperature)
    other_a, other_b = _similarities(a.features, b, temperature), _similarities(b.features, a, temperature)
    return {
        "cross_prototype": (_nll(other_a, a.labels) + _nll(other_b, b.labels)) / 2,
        "cross_cam": (_nll(own_a, b.labels) + _nll(own_b, a.labels)) / 2,
        "intra": (intra_view(own_a, a.labels, temperature) + intra_view(own_b, b.labels, temperature)) / 2,
    }


def intra_view(similarities: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Contrast within a view against semi-hard prototypes, over all and over hard pixels of each class.

    Negatives of a pixel are the prototypes ranked 4 to 13 of 21 by similarity (the same shares of other numbers of
    classes). Each class counts the mean over all its pixels and the mean over its hard ones by half: the expected
    value of the published draw of half the pixels. Classes with one pixel count 0.

    Args:
        similarities: (P, C) cosines over tau; -inf for classes without a prototype.
        labels: (P,) pseudo labels.
        temperature: tau.
    """
    count = similarities.shape[1]
    low, high = round(count * 3 / 21), max(round(count * 13 / 21), round(count * 3 / 21) + 1)
    positive = similarities.gather(1, labels[:, None])
    negatives = similarities.sort(dim=1, descending=True).values[:, low:high]
    loss = torch.cat([positive, negatives], 1).logsumexp(1) - positive[:, 0]
    usable = torch.isfinite(positive[:, 0])
    loss = torch.where(usable, loss, 0)
    order = positive.detach()[:, 0].argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    sizes = occurrences(labels, count)
    starts = sizes.cumsum(0) - sizes
    sorted_labels = labels[order]
    rank = torch.arange(len(labels), device=labels.device) - starts[sorted_labels]
    half = sizes // 2
    stop = (sizes * HARDEST).long()
    hard = (rank < stop[sorted_labels]) & (rank >= (stop - half)[sorted_labels])
    zero = torch.zeros(count, dtype=loss.dtype, device=loss.device)
    class_mean = zero.index_add(0, labels, loss) / sizes.clamp_min(1)
    tough = zero.index_add(0, sorted_labels, torch.where(hard, loss[order], 0)) / half.clamp_min(1)
    per_class = torch.where(sizes >= 2, (class_mean + tough) / 2, 0)
    return per_class.sum() / (sizes > 0).sum().clamp_min(1)


def _similarities(features: Tensor, view: View, temperature: float) -> Tensor:
    """(P, C) cosines over tau of features and a view's prototypes, float32; -inf where there is none.

    In bfloat16 the sums over a class's pixels stand still at 256: half the contrast within a view was missing.
    """
    with exact_float32(features.device):
        cosines = at_least_float32(features) @ at_least_float32(view.prototypes).T
    return (cosines / temperature).masked_fill(~view.known, float("-inf"))


def _nll(similarities: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels whose class has a prototype."""
    has = torch.isfinite(similarities.detach().gather(1, labels[:, None])[:, 0])
    safe = torch.where(has, labels, similarities.detach().argmax(1))
    losses = F.cross_entropy(similarities, safe, reduction="none")
    return torch.where(has, losses, 0).sum() / has.sum().clamp_min(1)
