"""Connected regions of a mask that evidence contradicts, without the seams along borders of classes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from segproto.prototypes.labels import IGNORE_INDEX

EIGHT = np.ones((3, 3), dtype=bool)
LEAST = 0.01  # votes beyond which nothing is told apart
WHOLE = 0.5  # a region of the mask of which so large a share is contradicted is taken as a whole


@dataclass(frozen=True)
class Region:
    """A connected region of one image's mask whose label is contradicted.

    Attributes:
        label: its class in the mask.
        suggested: the class that the evidence is for.
        score: how strongly the label is outvoted, -1..1: the mean over its pixels of ``log((v' + e) / (v + e))``
            over its largest value, v' the votes for the suggested class and v those for the label; as if there were one
            cell more that says nothing, since a few pixels prove little.
        pixels: how many it has.
        box: (y0, x0, y1, x1), the last row and column not included.
        inside: bool (y1 - y0, x1 - x0), the region within its box.
    """

    label: int
    suggested: int
    score: float
    pixels: int
    box: tuple[int, int, int, int]
    inside: NDArray[np.bool_]

    def runs(self) -> list[int]:
        """Its pixels within the box, row by row, as lengths of runs that alternate, the first one outside."""
        flat = np.concatenate([[False], self.inside.ravel()])
        ends = np.flatnonzero(np.diff(flat.astype(np.int8))).tolist()
        edges = [0, *ends, flat.size - 1]
        return [int(b - a) for a, b in itertools.pairwise(edges)]

    @staticmethod
    def from_runs(runs: Sequence[int], box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
        """:meth:`runs` back to ``inside``.

        Raises:
            ValueError: they are not as many pixels as the box.
        """
        shape = (box[2] - box[0], box[3] - box[1])
        flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        return flat.reshape(shape)

    def fill(self, mask: Tensor, value: int) -> None:
        """Sets the region in a mask (H, W), in place."""
        y0, x0, y1, x1 = self.box
        mask[y0:y1, x0:x1][torch.from_numpy(self.inside).to(mask.device)] = value


def contradicted(
    evidence: Tensor, mask: Tensor, *, cell: tuple[float, float], fewest: int, votes: Tensor | None = None
) -> list[Region]:
    """Regions of a mask whose labels the evidence outvotes, the most contradicted first.

    Connected pixels of one label for which one other class has most evidence are a region. Evidence is coarse, so
    along every border of two classes lies a seam of such pixels: what vanishes when half a cell is taken off all round
    is left out, unless it is most of a connected region of the mask, which then counts as a whole.

    Args:
        evidence: (C, H, W) in 0..1, summing to 1 over classes: what decides where regions are.
        mask: (H, W), 255 = void, about which nothing is said.
        cell: height and width in pixels of a cell of the grid that the evidence comes from.
        fewest: smaller regions are left out.
        votes: the same, which decides how strongly a region is contradicted; None = ``evidence``.

    Returns:
        The regions, disjoint.
    """
    shares, labels = evidence.float().cpu().numpy(), mask.long().cpu().numpy()
    logs = np.log((evidence if votes is None else votes).float().cpu().numpy() + LEAST) / math.log(1 + 1 / LEAST)
    best, seam = shares.argmax(0), min(cell) / 2
    regions: list[Region] = []
    for label in np.unique(labels):
        if label == IGNORE_INDEX or not 0 <= label < len(shares):
            continue
        pieces, _ = ndimage.label(labels == label, structure=EIGHT)
        for number, box in enumerate(ndimage.find_objects(pieces), 1):
            inside = pieces[box] == number
            if inside.sum() < fewest:
                continue
            part = shares[(slice(None), *box)]
            for other, found in _wrong(inside, best[box], part, int(label), seam, fewest):
                start = (box[0].start, box[1].start)
                regions.append(_region(int(label), other, found, logs[(slice(None), *box)], start, cell[0] * cell[1]))
    return sorted(regions, key=lambda region: -region.score)


def _wrong(
    inside: NDArray[np.bool_],
    best: NDArray[np.int64],
    shares: NDArray[np.float32],
    label: int,
    seam: float,
    fewest: int,
) -> list[tuple[int, NDArray[np.bool_]]]:
    """Of a connected region of the mask: all of it, or the parts of it that are contradicted, each with a class."""
    mean = shares[:, inside].mean(1)
    leader = int(mean.argmax())
    if leader != label and (best[inside] != label).mean() >= WHOLE:
        return [(leader, inside)]
    found = []
    for other in np.unique(best[inside]):
        if other == label:
            continue
        pieces, count = ndimage.label(inside & (best == other), structure=EIGHT)
        if not count:
            continue
        depth = ndimage.distance_transform_edt(np.pad(pieces > 0, 1))[1:-1, 1:-1]
        numbers = np.arange(1, count + 1)
        deep = ndimage.maximum(depth, pieces, numbers) > seam
        large = np.bincount(pieces.ravel(), minlength=count + 1)[1:] >= fewest
        found += [(int(other), pieces == number) for number in numbers[deep & large]]
    return found


def _region(
    label: int,
    other: int,
    inside: NDArray[np.bool_],
    logs: NDArray[np.floating[Any]],
    start: tuple[int, int],
    silent: float,
) -> Region:
    """The region of the pixels ``inside`` a box that begins at ``start``, with ``silent`` pixels that say nothing."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    score = float((logs[other][inside] - logs[label][inside]).sum() / (inside.sum() + silent))
    box = (start[0] + y0, start[1] + x0, start[0] + y1, start[1] + x1)
    return Region(label, other, score, int(inside.sum()), box, inside[y0:y1, x0:x1].copy())
