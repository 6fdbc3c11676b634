"""Segmentation by looking up labelled training patches (Balazevic et al., NeurIPS 2023, section 3).

A memory holds features of training cells with the class frequencies of their pixels. The cells of a new image take over
the labels of the k nearest, weighted by a softmax of their cosines. https://arxiv.org/abs/2306.01667
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.prototypes.labels import IGNORE_INDEX
from segproto.prototypes.numerics import exact_float32

BLOCK = 1 << 24  # cosines held at once while searching: 64 MiB
WIDE = 4096  # patches of a block on a CPU: their float32 copy and their cosines stay in its caches


class Neighbours(NamedTuple):
    """The k nearest patches of N cells, nearest first.

    Attributes:
        similarity: (N, k) float32 cosines.
        patch: (N, k) int64.
    """

    similarity: Tensor
    patch: Tensor


def normalise_layers(cells: Tensor, blocks: int) -> Tensor:
    """Cell features (N, D), float32, in which each of ``blocks`` equal parts of the channels has mean 0 and variance 1.

    The parts are the layers of a backbone, joined: without this the one with the largest values drowns the others.
    0 = features as they are.
    """
    x = cells.float()
    if not blocks:
        return x
    parts = x.reshape(-1, blocks, x.shape[1] // blocks)
    return F.layer_norm(parts, parts.shape[-1:]).flatten(1)


def embed_cells(cells: Tensor, blocks: int, mean: Tensor, removed: Tensor) -> Tensor:
    """Cell features to the unit vectors that are compared.

    Layers are normalised (:func:`normalise_layers`), the memory's mean is subtracted, directions that only tell places
    apart are taken out, and the length becomes 1.

    Args:
        cells: (N, D).
        blocks: joined layers; 0 = features are compared as they are.
        mean: (D,) of the memory, zeros for none.
        removed: (R, D) orthonormal directions taken out; R may be 0.

    Returns:
        (N, D) float32.
    """
    with exact_float32(cells.device):
        x = normalise_layers(cells, blocks) - mean
        if len(removed):
            x = x - (x @ removed.T) @ removed
        return F.normalize(x, dim=1)


def nearest_patches(queries: Tensor, keys: Tensor, k: int, apart: tuple[Tensor, Tensor] | None = None) -> Neighbours:
    """Exact search in blocks of matrix products: memory does not grow with N x M.

    Args:
        queries: (N, D) unit vectors, float32.
        keys: (M, D) unit vectors of any float type, k <= M; products are of float32.
        k: neighbours.
        apart: (N,) and (M,) int64, the image of each query and key: no patch of a query's own image is a neighbour.

    Returns:
        The k largest cosines of every query. Which of several equal ones is taken is arbitrary. Where other images have
        fewer than k patches, the last cosines are -inf, and :func:`vote_shares` gives them nothing.
    """
    count, patches = len(queries), len(keys)
    most = WIDE if queries.device.type == "cpu" else BLOCK // max(1, min(count, 1024))
    wide = max(k, min(patches, most))
    rows = max(1, BLOCK // wide)
    own, image = (None, None) if apart is None else apart
    pieces = torch.split(queries, rows)
    owns = [None] * len(pieces) if own is None else torch.split(own, rows)
    with exact_float32(queries.device):
        parts = [_search(part, keys, k, wide, mine, image) for part, mine in zip(pieces, owns, strict=True)]
    return Neighbours(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _search(queries: Tensor, keys: Tensor, k: int, wide: int, own: Tensor | None, image: Tensor | None) -> Neighbours:
    best = Neighbours(queries.new_empty(len(queries), 0), queries.new_empty(len(queries), 0, dtype=torch.int64))
    for start in range(0, len(keys), wide):
        cosines = queries @ keys[start : start + wide].to(queries.dtype).T
        if own is not None and image is not None:
            cosines.masked_fill_(own[:, None] == image[None, start : start + wide], -torch.inf)
        values, index = cosines.topk(min(k, cosines.shape[1]), dim=1)
        best = nearest_of(best, Neighbours(values, index + start), k)
    return best


def nearest_of(first: Neighbours, second: Neighbours, k: int) -> Neighbours:
    """The k nearest of two searches of the same cells in different patches; all of them where they are fewer."""
    similarity = torch.cat([first.similarity, second.similarity], 1)
    values, order = similarity.topk(min(k, similarity.shape[1]), dim=1)
    return Neighbours(values, torch.cat([first.patch, second.patch], 1).gather(1, order))


def vote_shares(similarity: Tensor, temperature: float) -> Tensor:
    """Weights (N, k) of the neighbours, ``softmax(s / T)`` over the k (Balazevic et al. 2023, section 3)."""
    return (similarity.float() / temperature).softmax(1)


def class_votes(frequencies: Tensor, balance: float) -> tuple[Tensor, Tensor]:
    """How the labels of mixed patches are weighed, so that what is small beside what is large is not outvoted.

    A patch votes with ``y_ic r_c / s_i`` instead of ``y_ic``, with ``r_c = p_c^-balance``, p the mean of y over the
    memory, and ``s_i = sum_c y_ic r_c``: its votes still sum to 1, and a patch of one class votes as before.

    Args:
        frequencies: (P, C) y.
        balance: 0 = labels as they are (published).

    Returns:
        r (C,) and s (P,), float32.
    """
    y = frequencies.float()
    if not balance:
        return y.new_ones(y.shape[1]), y.new_ones(len(y))
    weights = y.mean(0).clamp_min(1e-6).pow(-balance)
    return weights, (y @ weights).clamp_min(1e-12)


def cell_frequencies(labels: Tensor, grid: tuple[int, int], num_classes: int) -> tuple[Tensor, Tensor]:
    """Class frequencies of the labelled pixels of each cell.

    Args:
        labels: (H, W) int64 of the area that the grid covers, 255 = void.
        grid: (h, w); a pixel at row y belongs to row ``y * h // H``.
        num_classes: C.

    Returns:
        (h*w, C) float32, each row summing to 1 where the cell has a labelled pixel and 0 elsewhere; and (h*w,), the
        share of each cell's pixels that are labelled.
    """
    (height, width), (h, w) = labels.shape, grid
    rows = torch.arange(height, device=labels.device) * h // height
    columns = torch.arange(width, device=labels.device) * w // width
    cell = rows[:, None] * w + columns
    known = (labels < num_classes) & (labels != IGNORE_INDEX)  # tables of more than 255 classes have no class 255
    slot = cell * (num_classes + 1) + torch.where(known, labels, num_classes)
    counts = torch.bincount(slot.flatten(), minlength=h * w * (num_classes + 1)).view(h * w, num_classes + 1).float()
    labelled = counts[:, :-1].sum(1)
    return counts[:, :-1] / labelled.clamp_min(1)[:, None], labelled / counts.sum(1).clamp_min(1)


def rarity(frequencies: Tensor) -> Tensor:
    """How common the classes of each cell are in its image; small = rare (Balazevic et al. 2023, appendix on sampling).

    Args:
        frequencies: (N, C) of :func:`cell_frequencies`, the cells of one image.

    Returns:
        (N,) for each cell the sum, over the classes it holds, of how many cells of the image hold the class.
    """
    holds = frequencies > 0
    return holds.float() @ holds.sum(0).float()


def choose_cells(
    frequencies: Tensor, usable: Tensor, count: int, generator: torch.Generator, shares: Tensor | None = None
) -> Tensor:
    """The ``count`` cells of an image to remember: rare classes keep theirs, common ones are thinned at random.

    As published, those whose :func:`rarity`, times a uniform number, is least. With ``shares`` each cell is drawn with
    odds in proportion to ``sum_c y_c / sqrt(shares_c)``: what is rare is told by all images instead of this one
    (drawn without repetition by exponential keys; Efraimidis and Spirakis 2006).

    Args:
        frequencies: (N, C).
        usable: (N,) bool.
        count: at most so many.
        generator: of the uniform numbers, on the CPU.
        shares: (C,) of each class in the pixels of all images; None = as published.

    Returns:
        (n,) int64 indices, ascending; n <= count.
    """
    draw = torch.rand(len(frequencies), generator=generator).to(frequencies.device)
    if shares is None:
        score = rarity(frequencies) * draw
    else:
        odds = frequencies @ shares.to(frequencies).clamp_min(1e-6).rsqrt()
        score = -draw.clamp_min(1e-30).log() / odds.clamp_min(1e-30)
    score = score.masked_fill(~usable, torch.inf)
    chosen = score.argsort(stable=True)[: min(count, int(usable.sum()))]
    return chosen.sort().values


def position_directions(means: Tensor, counts: Tensor, rank: int) -> Tensor:
    """Directions in which features tell where a cell lies whatever is there.

    They are the leading principal directions of the mean feature of each place of the grid, over many images.

    Args:
        means: (L, D) mean feature of each of L places.
        counts: (L,) cells that each mean is of; places without one are left out.
        rank: R, directions.

    Returns:
        (R', D) orthonormal, R' = min(R, places with cells - 1, D).
    """
    measured = means[counts > 0].double()
    centred = measured - measured.mean(0)
    rank = min(rank, max(0, len(measured) - 1), means.shape[1])
    if rank == 0:
        return means.new_zeros(0, means.shape[1])
    directions: Tensor = torch.linalg.svd(centred, full_matrices=False).Vh[:rank]
    return directions.to(means.dtype)
