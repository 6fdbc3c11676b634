"""Key points of an object's parts: the centre of every connected piece (Porta et al. 2025, section 4.3)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from segproto.prototypes.labels import IGNORE_INDEX

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Keypoints(NamedTuple):
    """K key points, each int64 (K,).

    Attributes:
        class_id: class whose part it is.
        part: part id, >= 1.
        y: pixel row.
        x: pixel column.
    """

    class_id: Tensor
    part: Tensor
    y: Tensor
    x: Tensor


def part_keypoints(mask: Tensor, parts: Tensor, *, background_centroid: bool = False) -> Keypoints:
    """Centroids, rounded to whole pixels, of the 8-connected components of every part of every class.

    Args:
        mask: (H, W) classes, 255 = void.
        parts: (H, W) part ids, 0 = none; a part counts for the classes it lies in.
        background_centroid: add, for each part, the centroid of all pixels that are not in it, as the published code
            does; such a point says nothing about the part.

    Raises:
        ValueError: maps of unlike size, or a part id below 0.
    """
    if mask.shape != parts.shape:
        raise ValueError(f"the mask is {tuple(mask.shape)}, the part map {tuple(parts.shape)}; expected equal shapes")
    part_ids = torch.where(mask == IGNORE_INDEX, 0, parts.to(torch.int64)).cpu().numpy()
    if part_ids.min(initial=0) < 0:
        raise ValueError(f"part id {part_ids.min()}: expected ids >= 0")
    width = int(part_ids.max(initial=0)) + 1
    keys = np.where(
        part_ids > 0, mask.cpu().numpy().astype(np.int64) * width + part_ids, 0
    )  # one number per class and part
    runs = _runs(keys)
    pieces = _connect(runs, keys.shape[1])
    count = int(pieces.max(initial=-1)) + 1
    owner = np.zeros(count, np.int64)
    owner[pieces] = runs.key
    centroids = _centroids(runs, pieces, count)
    if background_centroid:
        outer_keys, inverse = np.unique(runs.key, return_inverse=True)
        owner = np.concatenate([owner, outer_keys])
        centroids = np.concatenate([centroids, _outside(runs, inverse, len(outer_keys), keys.shape)])
        finite = np.isfinite(centroids).all(1)
        owner, centroids = owner[finite], centroids[finite]
    order = owner.argsort(kind="stable")
    owner, centroids = owner[order], np.rint(centroids[order])
    columns = (owner // width, owner % width, centroids[:, 0], centroids[:, 1])
    return Keypoints(*(torch.from_numpy(c.astype(np.int64)) for c in columns))


class _Runs(NamedTuple):
    """Stretches of one key within a row, row by row."""

    key: Ints
    row: Ints
    first: Ints
    last: Ints


def _runs(keys: Ints) -> _Runs:
    """All stretches of keys above 0 in (H, W)."""
    edges = np.ones((keys.shape[0], keys.shape[1] + 1), dtype=bool)
    edges[:, 1:-1] = keys[:, 1:] != keys[:, :-1]
    row, first = np.nonzero(edges[:, :-1])
    last = np.nonzero(edges[:, 1:])[1]
    key = keys[row, first]
    real = key > 0
    return _Runs(key[real], row[real], first[real], last[real])


def _connect(runs: _Runs, width: int) -> Ints:
    """The 8-connected component of each run: runs of one key in neighbouring rows that touch, diagonally too."""
    count, stride = len(runs.key), width + 2
    above = (runs.row - 1) * stride
    low = np.searchsorted(runs.row * stride + runs.last, above + runs.first - 1)
    high = np.searchsorted(runs.row * stride + runs.first, above + runs.last + 1, side="right")
    pairs = np.maximum(high - low, 0)
    lower = np.repeat(np.arange(count), pairs)
    upper = np.arange(pairs.sum()) - np.repeat(pairs.cumsum() - pairs, pairs) + np.repeat(low, pairs)
    same = runs.key[lower] == runs.key[upper]
    links = coo_array((np.ones(int(same.sum()), bool), (lower[same], upper[same])), shape=(count, count))
    label: Ints = connected_components(links, directed=False)[1].astype(np.int64) if count else np.zeros(0, np.int64)
    return label


def _sums(runs: _Runs, owner: Ints, count: int) -> Floats:
    """(3, count): pixels, sum of rows and sum of columns of what belongs together."""
    length = runs.last - runs.first + 1
    terms = (length, length * runs.row, length * (runs.first + runs.last) / 2)
    return np.stack([np.bincount(owner, weights=term, minlength=count) for term in terms])


def _centroids(runs: _Runs, owner: Ints, count: int) -> Floats:
    """(count, 2): row and column."""
    area, *sums = _sums(runs, owner, count)
    centroids: Floats = np.stack(sums, 1) / area[:, None]
    return centroids


def _outside(runs: _Runs, owner: Ints, count: int, size: tuple[int, ...]) -> Floats:
    """Centroids of all pixels that do not belong to each; NaN where there are none."""
    area, *sums = _sums(runs, owner, count)
    pixels = size[0] * size[1]
    outside = np.where(pixels > area, pixels - area, np.nan)
    total = [pixels * (side - 1) / 2 for side in size]
    return np.stack([(w - own) / outside for w, own in zip(total, sums, strict=True)], 1)
