"""Codes that correspond where frozen features do (STEGO: Hamilton et al., ICLR 2022, section 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.prototypes.numerics import at_least_float32, exact_float32

SAMPLES = 11  # points down and across


class PairTerm(NamedTuple):
    """One kind of pair of the loss.

    Attributes:
        weight: of the term.
        shift: b: features that resemble each other less than this push their codes apart.
    """

    weight: float
    shift: float


def sampled(maps: Tensor, points: Tensor) -> Tensor:
    """Maps (B, C, h, w) at places (B, n, n, 2) in [-1, 1] (x, y): (B, C, n, n); bilinear, borders repeated."""
    return F.grid_sample(maps, points, mode="bilinear", padding_mode="border", align_corners=True)


def cosine_pairs(first: Tensor, second: Tensor) -> Tensor:
    """Cosines (B, n, n, m, m), float32, of all points of (B, C, n, n) with all of (B, C, m, m)."""
    with exact_float32(first.device):
        one, other = (F.normalize(at_least_float32(x), dim=1) for x in (first, second))
        return torch.einsum("bcij,bckl->bijkl", one, other)


def centred(pairs: Tensor) -> Tensor:
    """Cosines less each first point's mean over the second map, with the mean of all unchanged (spatial centring)."""
    by_point = pairs - pairs.mean((3, 4), keepdim=True)
    return by_point - by_point.mean() + pairs.mean()


def correspondence_loss(
    features: tuple[Tensor, Tensor], codes: tuple[Tensor, Tensor], points: tuple[Tensor, Tensor], shift: float
) -> Tensor:
    """Mean of ``-max(code cosine, 0) * (centred feature cosine - shift)`` over pairs of sampled points (eq. 3 and 4).

    Args:
        features: frozen ones of two images per row, (B, C, h, w) each; no gradient.
        codes: (B, D, h, w) each.
        points: (B, n, n, 2) of each.
        shift: b.
    """
    with torch.no_grad():
        theirs = centred(cosine_pairs(*(sampled(f, p) for f, p in zip(features, points, strict=True))))
    ours = cosine_pairs(*(sampled(c, p) for c, p in zip(codes, points, strict=True)))
    return (-ours.clamp_min(0) * (theirs - shift)).mean()


def derangement(count: int, order: Tensor) -> Tensor:
    """A permutation of the batch of which no row is its own partner (points fixed by ``order`` move up by one)."""
    rows = torch.arange(count, device=order.device)
    return torch.where(order == rows, order + 1, order) % count


def nearest_images(means: Tensor, count: int, chunk: int = 1024) -> Tensor:
    """The most similar images of each, by the cosine of their mean features.

    Args:
        means: (N, C) spatial means of features.
        count: how many, at most N - 1.
        chunk: rows at once.

    Returns:
        int64 (N, count), most similar first, without the image itself.
    """
    unit = F.normalize(means, dim=1)
    nearest = []
    for start in range(0, len(unit), chunk):
        cosines = unit[start : start + chunk] @ unit.T
        rows = torch.arange(len(cosines), device=unit.device)
        cosines[rows, start + rows] = -torch.inf
        nearest.append(cosines.topk(min(count, len(unit) - 1), dim=1).indices)
    return torch.cat(nearest)
