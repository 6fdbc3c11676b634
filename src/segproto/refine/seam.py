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
    if index == 0:  # no copy of the others
        return maps[:, 1:]
    return torch.cat([maps[:, :index], maps[:, index + 1 :]], 1)


def present_first(labels: Tensor, background: int = 0) -> Tensor:
    """Numbers (N, K) of each image's classes, the background first, then those it shows.

    K is that of the image with the most (at least 2); images with fewer have classes at the end that they do not show.

    Args:
        labels: (N, C); on the CPU nothing waits for a device.
        background: channel.
    """
    order = labels.float()
    order = order.index_fill(1, torch.tensor([background % labels.shape[1]], device=labels.device), 2)
    count = max(int((order > 0).sum(1).max()), min(2, labels.shape[1]))
    return order.argsort(dim=1, descending=True, stable=True)[:, :count]


def only(maps: Tensor, index: Tensor) -> Tensor:
    """The channels (N, K, ...) that :func:`present_first` numbers, of (N, C, ...)."""
    rows = index.view(*index.shape, *[1] * (maps.ndim - 2)).to(maps.device)
    return maps.gather(1, rows.expand(-1, -1, *maps.shape[2:]))


def max_norm(maps: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Each map to 0..1 by its smallest and largest positive value; differentiable through both.

    Args:
        maps: (N, C, h, w).
        size: that the result is resized to (:func:`to_size`); None = none.
    """
    # Not aminmax, which has no gradient in some releases (torch 2.11).
    low, high = (extreme((2, 3), keepdim=True).relu() for extreme in (maps.amin, maps.amax))
    above = (maps - (low + EPSILON)).relu()
    return (above if size is None else to_size(above, size)) / (high - low + EPSILON)


def spatial_mean(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Means (N, C) of maps enlarged to ``size``, which need not be made: each cell counts as often as it is seen."""
    if tuple(maps.shape[-2:]) == size:
        return maps.mean((2, 3))
    rows, columns = (
        F.interpolate(torch.eye(cells, device=maps.device)[None], size=side, mode="linear", align_corners=True)[0].mean(
            1
        )
        for cells, side in zip(maps.shape[-2:], size, strict=True)
    )
    return (maps.float() * rows[:, None] * columns).sum((2, 3))


def strongest_mean(maps: Tensor, share: float) -> Tensor:
    """Means (N, C) of the strongest ``share`` of each map's cells, at least one; with 1 of all.

    The strongest of the spatial pooling of Durand et al. 2017 (WILDCAT), without its weakest ones.
    """
    if share >= 1:
        return maps.mean((2, 3))
    flat = maps.flatten(2)
    count = max(round(flat.shape[2] * share), 1)
    return flat.topk(count, dim=2, sorted=False).values.mean(2)


def tag_loss(
    maps: Tensor,
    labels: Tensor,
    background: int = 0,
    size: tuple[int, int] | None = None,
    pooled: float = 1.0,
) -> Tensor:
    """Binary cross-entropy of the maps' spatial means with the image's labels, over foreground classes.

    Args:
        maps: (N, C, h, w).
        labels: (N, C), 1 or 0.
        background: channel.
        size: that the maps are enlarged to; None = as they are.
        pooled: share of the cells that the mean is of, the strongest ones (:func:`strongest_mean`, of the grid as it
            is); 1 = of all, as published.
    """
    own = (maps.shape[-2], maps.shape[-1])
    means = spatial_mean(maps, size or own) if pooled == 1 else strongest_mean(maps, pooled)
    logits = foreground(means, background)
    return F.binary_cross_entropy_with_logits(logits, foreground(labels, background).to(logits))


def smallest_maxima(maps: Tensor, labels: Tensor, background: int = 0, share: float = 0.25) -> Tensor:
    """Adaptive min pooling: the mean of the smallest ``share`` of the pixels' foreground maxima, clipped at 0.

    Pushes a part of every image to be background.
    """
    best = (foreground(maps, background) * foreground(labels, background)[:, :, None, None]).amax(1).flatten(1)
    k = max(int(best.shape[1] * share), 1)
    return best.topk(k, largest=False, sorted=False).values.relu().mean()


def equivariance(first: Tensor, second: Tensor, background: int = 0) -> Tensor:
    """ER: mean absolute difference of the foreground maps of two views (Wang et al. 2020, eq. 3)."""
    return (foreground(first, background) - foreground(second, background)).abs().mean()


def with_background(maps: Tensor, background: int = 0) -> Tensor:
    """The background's channel becomes 1 minus the pixel's foreground maximum."""
    background_score = 1 - foreground(maps, background).amax(1)
    index = background % maps.shape[1]
    return torch.cat([maps[:, :index], background_score[:, None], maps[:, index + 1 :]], 1)


def winners(maps: Tensor, background: int | Tensor = 0) -> Tensor:
    """Foreground entries below their pixel's foreground maximum become 0; the background stays.

    ``background``: the channel, or (N, C) bool where it is another one per image.
    """
    if isinstance(background, Tensor):
        stays = background[:, :, None, None]
        return maps * ((maps == maps.masked_fill(stays, float("-inf")).amax(1, keepdim=True)) | stays)
    best = foreground(maps, background).amax(1, keepdim=True)
    keep = maps == best
    keep[:, background] = True
    return maps * keep


def cross_regularisation(
    cam: Tensor,
    refined: Tensor,
    background: int = 0,
    share: float = 0.2,
    winners_over: int | Tensor | None = None,
    channels: int | None = None,
) -> Tensor:
    """ECR: one view's refined maps follow the other's winners (Wang et al. 2020, eq. 6), over the largest differences.

    Args:
        cam: (N, C, h, w) of one view, with background; gives no gradient.
        refined: (N, C, h, w) of the other view.
        background: channel.
        share: of all values of an image that count.
        winners_over: the channel left out of the winners instead of ``background`` (EPS as published: 0);
            or (N, C) bool.
        channels: of which these are the only ones that differ anywhere; None = C.
    """
    target = winners(cam.detach(), background if winners_over is None else winners_over)
    off = (target - refined).abs().flatten(1)
    count = max(int(off.shape[1] // cam.shape[1] * (channels or cam.shape[1]) * share), 1)
    if count < off.shape[1]:
        off = off.topk(count, sorted=False).values
    return off.sum() / (count * len(off))


def view_losses(
    cam1: Tensor,
    refined1: Tensor,
    cam2: Tensor,
    refined2: Tensor,
    labels: Tensor,
    *,
    background: int = 0,
    winners_over: int | None = None,
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None,
    pooled: float = 1.0,
) -> dict[str, Tensor]:
    """The losses of two views of a batch: ``tags`` (with adaptive min pooling), ``er`` and ``ecr``.

    Maps of classes that an image does not show count in the mean of its tags alone, everywhere else they are zero: only
    those of the others are made at full size, which is most of the work.

    Args:
        cam1: (N, C, h1, w1) raw maps of the first view.
        refined1: (N, C, h1, w1) of it, by pixel correlation.
        cam2: (N, C, h2, w2) raw maps of the second, smaller view; differences are taken at its size.
        refined2: (N, C, h2, w2).
        labels: (N, C), 1 or 0; on the CPU nothing waits for a device.
        background: channel.
        winners_over: see :func:`cross_regularisation`.
        sizes: that the maps of each view are enlarged to, and compared at; None = as they are.
        pooled: see :func:`tag_loss`.
    """
    first, size = sizes or ((cam1.shape[-2], cam1.shape[-1]), (cam2.shape[-2], cam2.shape[-1]))
    index = present_first(labels, background).to(cam1.device, non_blocking=True)
    channels, y = cam1.shape[1], labels.to(cam1, non_blocking=True)
    tags = (tag_loss(cam1, y, background, first, pooled) + tag_loss(cam2, y, background, size, pooled)) / 2
    y = only(y, index)
    maps = [to_size(only(m, index), s) for m, s in ((cam1, first), (refined1, first), (cam2, size), (refined2, size))]
    minima = (smallest_maxima(maps[1], y) + smallest_maxima(maps[3], y)) / 2
    a1, r1, a2, r2 = (max_norm(m, size) * y[:, :, None, None] for m in maps)
    er = equivariance(a1, a2) * ((index.shape[1] - 1) / (channels - 1))
    a1, a2 = with_background(a1), with_background(a2)
    over = None if winners_over is None else index == winners_over % channels
    ecr = [cross_regularisation(a, r, winners_over=over, channels=channels) for a, r in ((a2, r1), (a1, r2))]
    return {"tags": tags + minima, "er": er, "ecr": ecr[0] + ecr[1]}


@torch.no_grad()
def correlation_input(cam: Tensor, background: int = 0) -> Tensor:
    """What pixel correlation refines: each pixel's winning map, clipped and over its maximum, and the background.

    Float32, for in bfloat16 one pixel in a hundred has two winners.
    """
    cam = at_least_float32(cam).relu()
    scaled = (cam - EPSILON).relu() / (cam.amax((2, 3), keepdim=True) + EPSILON)
    return winners(with_background(scaled, background), background)


def pixel_correlation(maps: Tensor, embeddings: Tensor, *, block: int = 512) -> Tensor:
    """Maps averaged over alike pixels (Wang et al. 2020, eq. 5), a block of pixels at a time.

    ``out_j = sum_i maps_i S_ij / (sum_i S_ij + 1e-5)`` with S the positive cosines of the embeddings. As much as pixels
    i are like j, these are like those: each pair of blocks is compared once.

    Args:
        maps: (N, C, h, w).
        embeddings: (N, D, h, w).
        block: pixels at a time; the (hw, hw) matrix is never made.

    Returns:
        (N, C, h, w).
    """
    e = embeddings.flatten(2)
    e = e / (e.norm(dim=1, keepdim=True) + EPSILON)
    rows = torch.cat([maps.flatten(2), maps.new_ones(len(maps), 1, maps.shape[2] * maps.shape[3])], 1)
    pixels, values = torch.split(e, block, 2), torch.split(rows, block, 2)
    sums: list[Tensor | None] = [None] * len(pixels)

    def add(to: int, more: Tensor) -> None:
        before = sums[to]
        more = at_least_float32(more)  # sums of many blocks stand still in bfloat16
        sums[to] = more if before is None else before + more

    for a, own in enumerate(pixels):
        for b in range(a, len(pixels)):
            alike = (own.transpose(1, 2) @ pixels[b]).relu()
            add(b, values[a] @ alike)
            if b != a:
                add(a, values[b] @ alike.transpose(1, 2))
    whole = torch.cat([one for one in sums if one is not None], 2)
    return (whole[:, :-1] / (whole[:, -1:] + EPSILON)).view_as(maps)


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
