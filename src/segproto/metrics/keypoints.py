"""Key points of an object's parts: the centre of every connected piece (Porta et al. 2025, section 4.3)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

EIGHT = np.ones((3, 3), dtype=bool)


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
    known = torch.where(mask == 255, 0, parts.to(torch.int64)).cpu().numpy()
    if known.min(initial=0) < 0:
        raise ValueError(f"part id {known.min()}: expected ids >= 0")
    width = int(known.max(initial=0)) + 1
    keys = np.where(known > 0, mask.cpu().numpy().astype(np.int64) * width + known, 0)  # one number a class and part
    found = np.unique(keys)
    found = found[found > 0]
    numbers = np.searchsorted(found, keys) + 1
    numbers[keys == 0] = 0
    points = [
        _centroids(numbers[box] == i, box, background_centroid, keys.shape)
        for i, box in enumerate(ndimage.find_objects(numbers), 1)
        if box is not None
    ]
    counts = [len(p) for p in points]
    places = np.rint(np.concatenate(points)) if points else np.zeros((0, 2))
    owner = np.repeat(found, counts)
    columns = (owner // width, owner % width, places[:, 0], places[:, 1])
    return Keypoints(*(torch.from_numpy(c.astype(np.int64)) for c in columns))


def _centroids(
    inside: np.ndarray[tuple[int, int], np.dtype[np.bool_]],
    box: tuple[slice, ...],
    background: bool,
    size: tuple[int, ...],
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(n, 2) centroids (row, column) of the components within a box, the background's first if asked for."""
    pieces, count = ndimage.label(inside, structure=EIGHT)
    y, x = np.nonzero(pieces)
    owner = pieces[y, x]
    area = np.bincount(owner, minlength=count + 1)[1:]
    y, x = y + box[0].start, x + box[1].start
    sums = [np.bincount(owner, weights=v, minlength=count + 1)[1:] for v in (y, x)]
    points = np.stack(sums, 1) / area[:, None]
    if background:
        rest = size[0] * size[1] - area.sum()
        whole = np.array([(size[0] - 1) / 2, (size[1] - 1) / 2]) * size[0] * size[1]
        if rest:
            points = np.concatenate([(whole - points.T @ area)[None] / rest, points])
    return points
