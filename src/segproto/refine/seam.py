"""Class activation maps that agree between views: losses of SEAM (Wang et al. 2020) and EPS (Lee et al. 2021).

Maps (N, C, h, w) have one channel per class, one of which is the background; ``labels`` (N, C) are 1 for the classes in
an image and 1 for the background.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.prototypes.numerics import at_least_float32

EPSILON = 1e-5


def to_size(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners aligned, as published; maps of that size pass unchanged."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)


def foreground(maps: Tensor, background: int = 0) -> Tensor:
    """All channels (N, C, ...) but the background's: (N, C-1, ...)."""
    index = background % maps.shape[1]
    return torch.cat([maps[:, :index], maps[:, index + 1 :]], 1)


def max_norm(maps: Tensor) -> Tensor:
    """Each map to 0..1 by its smallest and largest positive value; differentiable through both."""
    maps = maps.relu()
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low - EPSILON).relu() / (high - low + EPSILON)


def tag_loss(maps: Tensor, labels: Tensor, background: int = 0) -> Tensor:
    """Binary cross-entropy of the maps' spatial means with the image's labels, over foreground classes."""
    logits = foreground(maps, background).mean((2, 3))
    return F.binary_cross_entropy_with_logits(logits, foreground(labels, background).to(logits))


def smallest_maxima(maps: Tensor, labels: Tensor, background: int = 0, share: float = 0.25) -> Tensor:
    """Adaptive min pooling: the mean of the smallest ``share`` of the pixels' foreground maxima, clipped at 0.

    Pushes a part of every image to be background.
    """
    best = (foreground(maps, background) * foreground(labels, background)[:, :, None, None]).amax(1).flatten(1)
    k = max(int(best.shape[1] * share), 1)
    return best.topk(k, largest=False).values.relu().mean()


def equivariance(first: Tensor, second: Tensor, background: int = 0) -> Tensor:
    """ER: mean absolute difference of the foreground maps of two views (Wang et al. 2020, eq. 3)."""
    return (foreground(first, background) - foreground(second, background)).abs().mean()


def with_background(maps: Tensor, background: int = 0) -> Tensor:
    """The background's channel becomes 1 minus the pixel's foreground maximum."""
    background_score = 1 - foreground(maps, background).amax(1)
    index = background % maps.shape[1]
    return torch.cat([maps[:, :index], background_score[:, None], maps[:, index + 1 :]], 1)


def winners(maps: Tensor, background: int = 0) -> Tensor:
    """Foreground entries below their pixel's foreground maximum become 0; the background stays."""
    best = foreground(maps, background).amax(1, keepdim=True)
    keep = maps == best
    keep[:, background] = True
    return maps * keep


def cross_regularisation(
    cam: Tensor, refined: Tensor, background: int = 0, share: float = 0.2, winners_over: int | None = None
) -> Tensor:
    """ECR: one view's refined maps follow the other's winners (Wang et al. 2020, eq. 6), over the largest differences.

    Args:
        cam: (N, C, h, w) of one view, with background; gives no gradient.
        refined: (N, C, h, w) of the other view.
        background: channel.
        share: of all values of an image that count.
        winners_over: the channel left out of the winners instead of ``background`` (EPS as published: 0).
    """
    target = winners(cam.detach(), background if winners_over is None else winners_over)
    off = (target - refined).abs().flatten(1)
    return off.topk(max(int(off.shape[1] * share), 1)).values.mean()


def view_losses(
    cam1: Tensor,
    refined1: Tensor,
    cam2: Tensor,
    refined2: Tensor,
    labels: Tensor,
    *,
    background: int = 0,
    winners_over: int | None = None,
) -> dict[str, Tensor]:
    """The losses of two views of a batch: ``tags`` (with adaptive min pooling), ``er`` and ``ecr``.

    Args:
        cam1: (N, C, h1, w1) raw maps of the first view.
        refined1: (N, C, h1, w1) of it, by pixel correlation.
        cam2: (N, C, h2, w2) raw maps of the second, smaller view; differences are taken at its size.
        refined2: (N, C, h2, w2).
        labels: (N, C).
        background: channel.
        winners_over: see :func:`cross_regularisation`.
    """
    size = (cam2.shape[-2], cam2.shape[-1])
    tags = (tag_loss(cam1, labels, background) + tag_loss(cam2, labels, background)) / 2
    pooled = (smallest_maxima(refined1, labels, background) + smallest_maxima(refined2, labels, background)) / 2
    y = labels[:, :, None, None].to(cam1)
    a1, r1, a2, r2 = (to_size(max_norm(m), size) * y for m in (cam1, refined1, cam2, refined2))
    er = equivariance(a1, a2, background)
    a1, a2 = with_background(a1, background), with_background(a2, background)
    ecr = [cross_regularisation(a, r, background, winners_over=winners_over) for a, r in ((a2, r1), (a1, r2))]
    return {"tags": tags + pooled, "er": er, "ecr": ecr[0] + ecr[1]}


@torch.no_grad()
def correlation_input(cam: Tensor, background: int = 0) -> Tensor:
    """What pixel correlation refines: each pixel's winning map, clipped and over its maximum, and the background.

    Float32, for in bfloat16 one pixel in a hundred has two winners.
    """
    cam = at_least_float32(cam).relu()
    scaled = (cam - EPSILON).relu() / (cam.amax((2, 3), keepdim=True) + EPSILON)
    return winners(with_background(scaled, background), background)


def pixel_correlation(maps: Tensor, embeddings: Tensor, *, block: int = 1024) -> Tensor:
    """Maps averaged over alike pixels (Wang et al. 2020, eq. 5), a block of pixels at a time.

    ``out_j = sum_i maps_i S_ij / (sum_i S_ij + 1e-5)`` with S the positive cosines of the embeddings.

    Args:
        maps: (N, C, h, w).
        embeddings: (N, D, h, w).
        block: pixels j at a time; the (hw, hw) matrix is never made.

    Returns:
        (N, C, h, w).
    """
    e = embeddings.flatten(2)
    e = e / (e.norm(dim=1, keepdim=True) + EPSILON)
    rows = torch.cat([maps.flatten(2), maps.new_ones(len(maps), 1, maps.shape[2] * maps.shape[3])], 1)
    parts = []
    for part in e.split(block, 2):
        sums = rows @ (e.transpose(1, 2) @ part).relu()
        parts.append(sums[:, :-1] / (sums[:, -1:] + EPSILON))
    return torch.cat(parts, 2).view_as(maps)


def salient_shares(probabilities: Tensor, saliency: Tensor) -> Tensor:
    """The salient share of each class's cells (probability over a half): (N, C, h, w), (N, 1, h, w) to (N, C)."""
    hard = probabilities.round()
    return (hard * saliency.round()).sum((2, 3)) / (hard + 1e-4).sum((2, 3))


def saliency_loss(
    cam: Tensor, saliency: Tensor, labels: Tensor, *, background: int = -1, overlap: float = 0.5, blend: float = 0.5
) -> Tensor:
    """EPS: the foreground the maps tell of and the saliency map should be one (Lee et al. 2021, eq. 2-5).

    Args:
        cam: (N, C, h, w) logits.
        saliency: (N, 1, H, W) in 0..1, resized to the grid (nearest).
        labels: (N, C).
        background: channel.
        overlap: a present class counts as salient if more than this share of its pixels is.
        blend: weight of the foreground against 1 minus the background.
    """
    p = cam.softmax(1)
    s = F.interpolate(saliency, size=cam.shape[-2:], mode="nearest")
    with torch.no_grad():
        ratio = salient_shares(p, s)
        is_background = torch.zeros_like(labels, dtype=torch.bool)
        is_background[:, background] = True
        present = (labels > 0) & ~is_background
        salient, other = present & (ratio > overlap), present & (ratio <= overlap)
        other[:, background] = True
    front = (p * salient[:, :, None, None]).sum(1, keepdim=True)
    back = (p * other[:, :, None, None]).sum(1, keepdim=True)
    return F.mse_loss(blend * front + (1 - blend) * (1 - back), s)
