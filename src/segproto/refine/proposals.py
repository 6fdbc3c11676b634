"""Mask proposals from frozen features alone (PriMaPs: Hahn et al., TMLR 2024, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.refine.directions import Moments, leading_direction

THRESHOLD = 0.4
COVERED = 0.95  # share of the cells after which an image is done
STILL = 3  # an image whose unassigned cells were the same in so many rounds is done, too
LARGEST = 254  # proposals per image: their numbers fit 8 bits beside 255 = none
PATIENCE = 4  # rounds between two questions to a GPU whether all images are done


class Round(NamedTuple):
    """One round of the extraction, of all images at once.

    Attributes:
        direction: (B, C) leading direction of the unassigned features.
        anchor: (B,) int64 cell (row-major) that lies furthest along it.
        similarity: (B, h, w) cosine of every cell with the anchor; 0 where already assigned.
        member: bool (B, h, w) cells of this round's mask.
        active: bool (B,) images that were not done before this round.
    """

    direction: Tensor
    anchor: Tensor
    similarity: Tensor
    member: Tensor
    active: Tensor


class Proposals(NamedTuple):
    """Disjoint masks of each image.

    Attributes:
        regions: int64 (B, h, w), 1..M in order of extraction, 0 = none; after the 3x3 vote.
        raw: the same before the vote.
        counts: int64 (B,) masks extracted, those that the vote emptied included (they stay channels of the CRF).
    """

    regions: Tensor
    raw: Tensor
    counts: Tensor


Directions = Callable[[int, Tensor], Tensor]
Sign = Literal["largest", "published"]


@torch.no_grad()
def propose(
    features: Tensor,
    *,
    threshold: float = THRESHOLD,
    sign: Sign = "largest",
    directions: Directions | None = None,
    watch: Callable[[Round], None] | None = None,
) -> Proposals:
    """Masks of parts that look alike, without a label (Hahn et al. 2024, algorithm 1).

    Each round takes the leading direction of the features not yet assigned, finds the unassigned cell furthest along
    it, the anchor, and makes a mask of the unassigned cells whose cosine with the anchor is at least ``threshold``
    times the largest. An image is done when 95 % of its cells are assigned, when nothing changed for three rounds, or
    after 254 masks. Then every cell takes the number that at least five of its 3x3 neighbourhood have.

    A direction's sign decides which end of it becomes the anchor. ``largest`` makes the largest absolute projection of
    an unassigned cell positive. ``published`` is the sign that the release's ``torch.pca_lowrank`` has: its starts are
    drawn, but the QR decompositions inside make the first of the unassigned cells (row by row; round 1: the top left
    one) project positively about their mean, or, where fewer cells than channels are left, the direction's first
    channel positive. ``largest`` agrees with it in one first round of ten and finds better proposals: if each took the
    class that most of its pixels have, 100 photos would score an mIoU of 0.744, against 0.723. Where the release goes
    wrong, the rule is another for both: an assigned cell is never an anchor.

    On a CPU images are computed one after another, so that a result never depends on the rest of the batch; elsewhere
    all go in lock-step.

    Args:
        features: (B, C, h, w) float, as the encoder gives them (not normalised).
        threshold: psi, in (0, 1).
        sign: of the directions.
        directions: for tests: called with the round's number and bool (B, N) unassigned, gives (B, C), used with its
            sign as it is.
        watch: called after every round.

    Returns:
        The proposals.

    Raises:
        ValueError: features of another shape, not finite, or a threshold out of range.
    """
    if features.ndim != 4 or not 0 < threshold < 1:
        raise ValueError(f"expected features (B, C, h, w) and 0 < threshold < 1; got {features.shape}, {threshold}")
    if features.device.type == "cpu" and len(features) > 1 and directions is None and watch is None:
        single = [propose(image[None], threshold=threshold, sign=sign) for image in features]
        return Proposals(*(torch.cat(parts) for parts in zip(*single, strict=True)))
    if not bool(features.sum(dtype=torch.float64).isfinite()):  # which one value that is not finite makes so, too
        raise ValueError("features hold values that are not finite")
    h, w = features.shape[-2:]
    tokens = features.float().flatten(2).mT.contiguous()
    labels, counts = extract(tokens, (h, w), threshold, sign, directions, watch)
    raw = labels.view(-1, h, w)
    return Proposals(majority(raw), raw, counts)


def extract(
    tokens: Tensor,
    grid: tuple[int, int],
    threshold: float,
    sign: Sign,
    directions: Directions | None,
    watch: Callable[[Round], None] | None,
) -> tuple[Tensor, Tensor]:
    """The rounds, of tokens (B, N, C): numbers (B, N) before the vote, and how many masks each image has (B,)."""
    images, cells, _ = tokens.shape
    unit = F.normalize(tokens, dim=-1)
    moments = Moments(tokens)
    labels = torch.zeros(images, cells, dtype=torch.int64, device=tokens.device)
    member = labels > 0
    counts = labels.new_zeros(images)
    still = labels.new_zeros(images)  # rounds in a row without a change
    every = 1 if tokens.device.type == "cpu" else PATIENCE
    for number in range(LARGEST):
        free = labels == 0
        active = (free.sum(1) > cells - COVERED * cells) & (still < STILL)
        if number % every == 0 and not bool(active.any()):
            break
        if number:
            moments.remove(member)  # of the round before: the last one's are never asked for
        direction = leading_direction(moments.covariance()) if directions is None else directions(number, free)
        along = (unit @ direction.to(unit.dtype)[..., None])[..., 0]
        if directions is None:
            turn = turned(moments, direction, along, free, sign)
            direction, along = turn * direction, turn * along
        anchor = torch.where(free, along, -torch.inf).argmax(1)
        similarity = torch.where(free, cosines(unit, anchor), 0)
        member = members(similarity, threshold) & active[:, None]
        labels = torch.where(member, number + 1, labels)
        counts += active
        still = torch.where(member.any(1), 0, still + 1)
        if watch is not None:
            shape = (images, *grid)
            watch(Round(direction, anchor, similarity.view(shape), member.view(shape), active))
    return labels, counts


def turned(moments: Moments, direction: Tensor, along: Tensor, free: Tensor, sign: Sign) -> Tensor:
    """1 or -1 (B, 1): which end of a direction becomes the anchor's, as :func:`propose` says.

    Args:
        moments: of the free tokens.
        direction: (B, C).
        along: (B, N) unit tokens along it.
        free: bool (B, N).
        sign: the rule.
    """
    if sign == "published":
        flip = published_end(moments, direction, free) < 0
    else:
        seen = torch.where(free, along, 0)
        flip = seen.amax(1) < -seen.amin(1)
    return 1 - 2 * flip[:, None].to(along.dtype)


def published_end(moments: Moments, direction: Tensor, free: Tensor) -> Tensor:
    """What the release's decomposition makes positive, (B,); measured with torch.pca_lowrank(q=3, niter=100)."""
    first = free.to(torch.uint8).argmax(1)
    cell = moments.features[torch.arange(len(first), device=first.device), first]
    centred = cell - moments.total / moments.count.clamp_min(1)
    return torch.where(free.sum(1) >= direction.shape[1], (centred * direction).sum(1), direction[:, 0])


def cosines(unit: Tensor, anchor: Tensor) -> Tensor:
    """Cosine (B, N) of every unit token (B, N, C) with the anchor's."""
    index = anchor[:, None, None].expand(-1, 1, unit.shape[2])
    return (unit @ unit.gather(1, index).mT)[..., 0]


def members(similarity: Tensor, threshold: float) -> Tensor:
    """Which cells (B, N) reach ``threshold`` times the image's largest similarity; none without a positive one."""
    largest = similarity.amax(1, keepdim=True)
    return (similarity >= threshold * largest) & (similarity > 0)


def majority(labels: Tensor) -> Tensor:
    """The number that at least five cells of each 3x3 neighbourhood have, 0 where none has (borders are reflected).

    Equals a 3x3 median of every mask (Hahn et al. 2024, released code): five of nine sorted numbers cover the middle
    one, so only that has to be counted.

    Args:
        labels: int64 (B, h, w), 0 = none.
    """
    h, w = labels.shape[-2:]
    rows, columns = (reflected(n, labels.device) for n in (h, w))
    padded = labels[:, rows][:, :, columns]
    around = torch.stack([padded[:, y : y + h, x : x + w] for y in range(3) for x in range(3)], -1)
    middle = around.median(-1).values
    return torch.where((around == middle[..., None]).sum(-1) >= 5, middle, 0)


def reflected(length: int, device: torch.device) -> Tensor:
    """Indices -1..length with the border reflected: 1, 0, 1, ..., length - 1, length - 2."""
    index = torch.arange(-1, length + 1, device=device).abs()
    return torch.where(index >= length, 2 * (length - 1) - index, index).clamp_min(0)
