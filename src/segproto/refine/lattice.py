"""Permutohedral lattice on the CPU (Adams, Baek and Davis 2010), as Kraehenbuehl and Koltun (2011) filter with it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segproto.errors import DataError

Floats = NDArray[np.float32]
CHUNKS = 2  # parts of an image that are summed apart: fixed, so that no result depends on the number of threads


class Workers:
    """Runs a kernel over ranges, in plain threads.

    Args:
        threads: how many; 1 = in the calling thread.
    """

    def __init__(self, threads: int) -> None:
        self.pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        self.threads = threads

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool:
            self.pool.shutdown()

    def run(self, calls: list[Callable[[], Any]]) -> None:
        """All calls side by side; returns when the last has ended."""
        if not self.pool:
            for call in calls:
                call()
            return
        waiting = [self.pool.submit(call) for call in calls[1:]]
        calls[0]()
        for future in waiting:
            future.result()

    def ranges(self, kernel: Callable[..., Any], start: int, stop: int, *args: Any) -> None:
        """``kernel(a, b, *args)`` over ``start..stop`` cut into one range a thread."""
        edges = np.linspace(start, stop, self.threads + 1).astype(int).tolist()
        self.run([partial(kernel, a, b, *args) for a, b in pairwise(edges)])


class Lattice:
    """The lattice of N points in d dimensions, with the symmetric normalisation of its kernel.

    Args:
        features: (N, d) float32: coordinates over their standard deviations; d >= 2.
        workers: threads.

    Attributes:
        vertices: (N, d+1) int32 numbers 1..M of the corners of each point's simplex; 0 is a vertex that is not there.
        rows: (N, d+1) where points splat: ``vertices``, but each part of the points has rows of its own, M+1.., for
            vertices that an earlier part has too, so that parts splat side by side.
        owners: (S,) int32 vertices of the rows M+1..M+S.
        edges: ``CHUNKS + 1`` limits of the parts.
        weights: (N, d+1) barycentric coordinates times ``n = 1 / sqrt(K 1)``.
        near: (d+1, M+1, 2) int32 neighbours along each axis.
        alpha: what a slice is scaled by, 1 / (1 + 2^-d).

    Raises:
        DataError: the features spread too far to be numbered (:func:`key_layout`).
    """

    def __init__(self, features: Floats, workers: Workers) -> None:
        from segproto.refine import _kernels

        n, d = features.shape
        scale = axis_scales(d)
        lowest, strides, _ = key_layout(features.min(0) * scale, features.max(0) * scale)
        keys = np.empty((n, d + 1), np.int64)
        self.weights = np.empty((n, d + 1), np.float32)
        workers.ranges(_kernels.embed, 0, n, features, scale, lowest, strides, keys, self.weights)
        self.edges = [n * c // CHUNKS for c in range(CHUNKS + 1)]
        self.vertices = np.empty((n, d + 1), np.int32)
        found, table, ids, known = self._number(keys)
        self.rows, self.owners = self._split(known)
        self.near = np.zeros((d + 1, len(found) + 1, 2), np.int32)
        offsets = np.append(strides * (d + 1), 0) - strides.sum()
        workers.ranges(_kernels.link, 0, len(found), found, offsets, table, ids, self.near)
        self.alpha = np.float32(1 / (1 + 2.0**-d))
        self._normalise(workers)

    def _number(
        self, keys: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], list[int]]:
        """Numbers the distinct keys into ``vertices``, trying small tables first: they stay in the cache."""
        from segproto.refine import _kernels

        size = 1 << 16
        while True:
            table, ids = np.full(size, -1, np.int64), np.empty(size, np.int32)
            found = np.empty(size // 2, np.int64)
            known = [0]
            for start, stop in pairwise(self.edges):
                known.append(_kernels.number(start, stop, known[-1], keys, self.vertices, table, ids, found))
                if known[-1] < 0:
                    break
            else:
                return found[: known[-1]], table, ids, known
            size *= 4

    def _split(self, known: list[int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        from segproto.refine import _kernels

        rows = self.vertices.copy()
        row = known[-1] + 1
        owners = []
        for count, start, stop in zip(known[1:], self.edges[1:-1], self.edges[2:], strict=False):
            own = np.empty(count, np.int32)
            after = _kernels.part(start, stop, count, row, rows, np.zeros(count + 1, np.int32), own)
            owners.append(own[: after - row])
            row = after
        return rows, np.concatenate(owners)

    def _normalise(self, workers: Workers) -> None:
        from segproto.refine import _kernels

        values = np.zeros((self.near.shape[1], _kernels.BLOCK), np.float32)
        _kernels.splat_ones(self.vertices, self.weights, values)
        values = self.blur(values, np.zeros_like(values), workers)
        workers.ranges(_kernels.normalise, 0, len(self.vertices), self.vertices, self.weights, values, self.alpha)

    def buffers(self, columns: int) -> tuple[Floats, Floats]:
        """Two zero arrays (M + 1 + S, columns) for :meth:`filter`."""
        shape = self.near.shape[1] + len(self.owners), columns
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def filter(self, values: Floats, spare: Floats, workers: Workers) -> tuple[Floats, Floats]:
        """Joins and blurs what was splat into the rows of ``values``: the result, and the other array, emptied."""
        from segproto.refine import _kernels

        workers.ranges(_kernels.join, 0, values.shape[1], self.owners, values)
        result = self.blur(values, spare, workers)
        empty = spare if result is values else values
        workers.ranges(_kernels.clear, 0, len(empty), empty)
        return result, empty

    def blur(self, values: Floats, spare: Floats, workers: Workers) -> Floats:
        """The blurred values, along all axes, in one of the two arrays; row 0 of both must be 0."""
        from segproto.refine import _kernels

        for near in self.near:
            workers.ranges(_kernels.blur, 1, self.near.shape[1], near, values, spare)
            values, spare = spare, values
        return values


def axis_scales(d: int) -> Floats:
    """(d,) what each feature is multiplied by, so that blurring the lattice has standard deviation 1."""
    i = np.arange(d)
    scales: Floats = (np.sqrt(2 / 3) * (d + 1) / np.sqrt((i + 1) * (i + 2))).astype(np.float32)
    return scales


def key_layout(low: Floats, high: Floats, images: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """How to number lattice places: a key is the sum of ``(coordinate - lowest) * stride`` over d coordinates.

    Args:
        low: (d,) smallest scaled features.
        high: (d,) largest.
        images: that share one numbering.

    Returns:
        Lowest coordinates (d,), strides (d,), and how many keys an image can have; neighbours have keys in range too.

    Raises:
        DataError: more than 62 bits would be needed.
    """
    d = len(low)
    margin = 3 * (d + 1)
    after_low, after_high = np.append(np.cumsum(low[::-1])[::-1], 0), np.append(np.cumsum(high[::-1])[::-1], 0)
    ranks = np.arange(d)
    before_low, before_high = np.append(0, low[:-1]), np.append(0, high[:-1])  # coordinate j loses j times feature j
    lowest = np.floor(after_low[:d] - ranks * before_high).astype(np.int64) - margin
    highest = np.ceil(after_high[:d] - ranks * before_low).astype(np.int64) + margin
    sizes = [int(v) for v in highest - lowest + 1]
    strides = [1]
    for size in sizes[:-1]:
        strides.append(strides[-1] * size)
    size = strides[-1] * sizes[-1]
    if size * images >= 2**62:
        raise DataError("CRF: the image is too large for these standard deviations; use larger ones or a smaller image")
    return lowest, np.asarray(strides, np.int64), size
