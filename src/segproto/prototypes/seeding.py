"""Where momentum prototypes start, and new places for those that died or became twins."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.prototypes.labels import IGNORE_INDEX
from segproto.prototypes.numerics import exact_float32
from segproto.prototypes.segments import Reduce, Segments, one_process
from segproto.prototypes.sinkhorn import own_similarities, pixel_classes


class Seeds(NamedTuple):
    """Prototypes (C, K, D) with unit rows, and which of them were placed on a pixel: bool (C, K)."""

    prototypes: Tensor
    placed: Tensor


def random_prototypes(
    num_classes: int, per_class: int, dim: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """Directions of N(0, 0.02^2), as published: (C, K, D) float32 with unit rows."""
    return F.normalize(torch.randn(num_classes, per_class, dim, generator=generator) * 0.02, dim=-1)


def classifier_prototypes(
    weight: Tensor, per_class: int, *, spread: float = 0.1, generator: torch.Generator | None = None
) -> Tensor:
    """Prototypes around the class directions of a trained linear classifier.

    Args:
        weight: (C, D) or (C, D, 1, 1).
        per_class: K.
        spread: length of the random offset that tells the K apart (the class direction has length 1); with 0 they
            are equal and clustering cannot separate them.
        generator: random numbers, on the CPU.

    Returns:
        (C, K, D) float32 with unit rows.
    """
    direction = F.normalize(weight.detach().float().flatten(1), dim=1)[:, None]
    noise = torch.randn(len(direction), per_class, direction.shape[2], generator=generator).to(direction.device)
    return F.normalize(direction + spread * F.normalize(noise, dim=-1), dim=-1)


def first_pixels(labels: Tensor, num_classes: int, limit: int, *, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """The first ``limit`` pixels of every class, in order: bool (N,)."""
    classes = pixel_classes(labels, num_classes, ignore_index)
    grouped, order = classes.sort(stable=True)
    starts = torch.searchsorted(grouped, torch.arange(num_classes + 1, device=labels.device))
    rank = torch.arange(len(labels), device=labels.device) - starts[grouped]
    keep = (rank < limit) & (grouped < num_classes)
    return torch.zeros_like(keep).scatter_(0, order, keep)


@torch.no_grad()
def kmeans_plus_plus(
    embeddings: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    *,
    generator: torch.Generator | None = None,
    reduce: Reduce = one_process,
    ignore_index: int = IGNORE_INDEX,
) -> Seeds:
    """k-means++ in all classes at once (Arthur and Vassilvitskii 2007): each next seed is drawn from the class's
    pixels with probability proportional to the squared distance to the nearest seed so far, the first uniformly.

    Args:
        embeddings: (N, D), L2-normalised rows.
        labels: (N,) int64; ``ignore_index`` and anything outside 0..C-1 is void.
        prototypes: (C, K, D): stay where a class has fewer than K distinct pixels.
        generator: random numbers, on the device of the embeddings; another seed on each process.
        reduce: draws from the pixels of all processes and places the same seeds on each; called twice per seed.
        ignore_index: the void label.

    Returns:
        The seeds.
    """
    num_classes, per_class, _ = prototypes.shape
    segments = Segments(pixel_classes(labels, num_classes, ignore_index), num_classes)
    with exact_float32(embeddings.device):
        x = embeddings.to(prototypes.dtype)
        seeds = F.normalize(prototypes, dim=-1)
        placed = torch.zeros(num_classes, per_class, dtype=torch.bool, device=x.device)
        weight = torch.ones_like(x[:, 0])
        for k in range(per_class):
            gumbel = -torch.empty_like(weight).exponential_(generator=generator).clamp_min_(1e-30).log()
            has_pixel, pixel = _pick(x, segments, weight.log() + gumbel, reduce)
            seeds[:, k] = torch.where(has_pixel[:, None], pixel, seeds[:, k])
            placed[:, k] = has_pixel
            distance = _distance_to_own(x, seeds[:, k], segments)
            weight = distance if k == 0 else torch.minimum(weight, distance)
        return Seeds(seeds, placed)


@torch.no_grad()
def reseed_dead(
    prototypes: Tensor,
    dead: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    predictions: Tensor,
    *,
    reduce: Reduce = one_process,
    ignore_index: int = IGNORE_INDEX,
) -> Seeds:
    """Moves dead prototypes to the farthest correct pixels of their class, one after another, all classes at once.

    Farthest: the smallest largest similarity to the class's living prototypes, those just moved included; a class with
    no living prototype starts from a pixel of its own.

    Args:
        prototypes: (C, K, D).
        dead: bool (C, K), the same on all processes, see :func:`segproto.prototypes.health.dead_prototypes`.
        embeddings: (N, D), L2-normalised rows.
        labels: (N,) int64; ``ignore_index`` and anything outside 0..C-1 is void.
        predictions: (N,) int64 predicted class.
        reduce: chooses among the pixels of all processes; called twice for each k of K.
        ignore_index: the void label.

    Returns:
        The prototypes and which moved; a dead one stays where its class has no correct pixel left away from a living.
    """
    num_classes, per_class, _ = prototypes.shape
    classes = pixel_classes(labels, num_classes, ignore_index)
    classes = torch.where(predictions == labels, classes, num_classes)
    segments = Segments(classes, num_classes)
    with exact_float32(embeddings.device):
        x = embeddings.to(prototypes.dtype)
        rows = F.normalize(prototypes, dim=-1)
        own = own_similarities(x @ rows.flatten(0, 1).T, classes, num_classes)
        asleep = dead[classes.clamp_max(num_classes - 1)]
        distance = (2 - 2 * own).clamp_min_(0).masked_fill_(asleep, 4).amin(1)  # 4 = the farthest two unit rows can be
        placed = torch.zeros_like(dead)
        for k in range(per_class):
            has_pixel, pixel = _pick(x, segments, distance.log(), reduce)
            move = has_pixel & dead[:, k]
            rows[:, k] = torch.where(move[:, None], pixel, rows[:, k])
            placed[:, k] = move
            moved = F.pad(move, (0, 1))[classes]
            distance = torch.where(moved, torch.minimum(distance, _distance_to_own(x, rows[:, k], segments)), distance)
        return Seeds(torch.where(placed[..., None], rows, prototypes), placed)


_SAME = 1e-6  # squared distances below this are rounding: the same pixel


def _pick(x: Tensor, segments: Segments, score: Tensor, reduce: Reduce) -> tuple[Tensor, Tensor]:
    """The best-scored pixel (-inf = none) of every class over all processes: found (C,), unit rows (C, D)."""
    best, row = segments.argmax(score)
    top = reduce(best, "max")
    mine = torch.isfinite(best) & (best == top)
    rows = x[row.clamp_max(len(x) - 1)] if len(x) else x.new_zeros(len(row), x.shape[1])
    pixel = torch.where(mine[:, None], rows, 0)
    total = reduce(pixel)  # several processes with the same score share: their mean direction, equal everywhere
    return torch.isfinite(top), F.normalize(total, dim=-1)


def _distance_to_own(x: Tensor, chosen: Tensor, segments: Segments) -> Tensor:
    """Squared distance (N,) of each pixel to its class's row of ``chosen`` (C, D); 0 within rounding."""
    similarity = (x @ chosen.T).gather(1, segments.ids.clamp_max(len(chosen) - 1)[:, None])[:, 0]
    distance = (2 - 2 * similarity).clamp_min_(0)
    return torch.where(distance < _SAME, 0, distance)
