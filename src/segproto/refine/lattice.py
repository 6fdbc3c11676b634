"""Permutohedral lattice on the CPU (Adams, Baek and Davis 2010), as Kraehenbuehl and Koltun (2011) filter with it.

Why a lattice: a Gaussian sum over all pairs of N points costs O(N^2). Here points are splat onto the vertices of
simplices about as large as the standard deviation, values are blurred along the d + 1 axes of the lattice, and sliced
back: O(N d^2), and only vertices near points exist. A vertex is one int64, its coordinates as digits of a mixed base
(:func:`key_layout`), which is hashed, compared and moved to a neighbour by one addition. The result approximates
the Gaussian up to a factor, which the normalisation ``1 / sqrt(K 1)`` takes out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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

    def run(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """What the calls give, each taken by the first thread that is free."""
        if not self.pool or len(calls) == 1:
            return [call() for call in calls]
        results: list[Any] = [None] * len(calls)
        waiting = iter(range(len(calls)))

        def work() -> None:
            for i in waiting:
                results[i] = calls[i]()

        others = [self.pool.submit(work) for _ in range(min(self.threads, len(calls)) - 1)]
        work()
        for other in others:
            other.result()
        return results

    def ranges(self, kernel: Callable[..., Any], start: int, stop: int, *args: Any) -> None:
        """``kernel(a, b, *args)`` over ``start..stop`` cut into one range per thread."""
        edges = np.linspace(start, stop, self.threads + 1).astype(int).tolist()
        self.run([partial(kernel, a, b, *args) for a, b in pairwise(edges)])


class Scratch:
    """Arrays that are used again for the next image: memory from the system is slow the first time."""

    def __init__(self) -> None:
        self._kept: dict[str, NDArray[np.uint8]] = {}

    def take(self, name: str, *shape: int) -> Floats:
        """A float32 array with any values, at the start of a cache line; valid until ``name`` is taken again."""
        size = 4 * math.prod(shape)
        if name not in self._kept or len(self._kept[name]) < size + 64:
            self._kept.pop(name, None)
            self._kept[name] = np.empty(size + 64, np.uint8)
        flat = self._kept[name]
        first = -flat.ctypes.data % 64
        return flat[first : first + size].view(np.float32).reshape(shape)


class Lattice:
    """The lattice of N points in d dimensions, with the symmetric normalisation of its kernel.

    Args:
        features: (N, d) float32: coordinates over their standard deviations; d >= 2.
        workers: threads.

    Attributes:
        count: M, how many vertices there are.
        vertices: (N, d+1) int32 numbers 1..M of the corners of each point's simplex.
        rows: (N, d+1) where points splat: ``vertices``, but each part of the points has rows of its own, M+1.., for
            vertices that an earlier part has too, so that parts splat side by side.
        owners: (S,) int32 vertices of the rows M+1..M+S.
        edges: ``CHUNKS + 1`` limits of the parts.
        met: for each part the last vertex and the last row of their own that earlier parts have; the next ones come in
            the order of its points.
        weights: (N, d+1) barycentric coordinates times ``n = 1 / sqrt(K 1)``.
        chains: for each of d+1 axes the vertices that have neighbours there, row after row, and where rows start.
        alpha: what a slice is scaled by, 1 / (1 + 2^-d).

    Raises:
        DataError: the features spread too far to be numbered (:func:`key_layout`).
    """

    def __init__(self, features: Floats, workers: Workers) -> None:
        from segproto.refine import _numbering

        n, d = features.shape
        scale = axis_scales(d)
        lowest, strides, _ = key_layout(features.min(0) * scale, features.max(0) * scale)
        keys = np.empty((n, d + 1), np.int64)
        self.weights = np.empty((n, d + 1), np.float32)
        workers.ranges(_numbering.embed, 0, n, features, scale, lowest, strides, keys, self.weights)
        self.edges = [n * c // CHUNKS for c in range(CHUNKS + 1)]
        self.vertices, self.rows = np.empty((n, d + 1), np.int32), np.empty((n, d + 1), np.int32)
        vertices, table = self._number(keys, workers)
        self.count = len(vertices)
        offsets = np.append(strides * (d + 1), 0) - strides.sum()
        self.chains = workers.run([partial(_chains, vertices, int(offset), table) for offset in offsets])
        self.alpha = np.float32(1 / (1 + 2.0**-d))
        self._normalise(workers)

    def _number(self, keys: NDArray[np.int64], workers: Workers) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Fills ``vertices``, ``rows`` and ``owners``; the distinct keys by number, and their hash table."""
        from segproto.refine import _numbering as numbering

        parts = workers.run([partial(_distinct, a, b, keys, self.vertices) for a, b in pairwise(self.edges)])
        (first, table), others = parts[0], [own for own, _ in parts[1:]]
        most = len(first) + sum(map(len, others))
        if 2 * most > len(table):
            table = np.zeros((1 << (2 * most).bit_length(), 2), np.int64)
            numbering.enter(first, table)
        distinct = np.concatenate([first, np.empty(most - len(first), np.int64)])
        owners = np.empty(most - len(first), np.int32)
        count, row, numbers, met = len(first), 0, [], [(0, 0)]
        for own in others:
            met.append((count, row))
            numbers.append(np.zeros((len(own) + 1, 2), np.int32))
            count, row = numbering.merge(own, count, row, table, distinct, numbers[-1], owners)
        self.owners = owners[:row]
        self.met = [(vertices, count + rows) for vertices, rows in met]
        self.rows[: self.edges[1]] = self.vertices[: self.edges[1]]
        ends = pairwise(self.edges[1:])
        calls = [partial(numbering.renumber, a, b, m, count) for (a, b), m in zip(ends, numbers, strict=True)]
        workers.run([partial(call, self.vertices, self.rows) for call in calls])
        return distinct[:count], table

    def _normalise(self, workers: Workers) -> None:
        from segproto.refine import _kernels

        values = np.zeros((self.size, 1), np.float32)
        parts = pairwise(self.edges)
        workers.run([partial(_kernels.splat_ones, a, b, self.rows, self.weights, values) for a, b in parts])
        self.filter(values, workers)
        workers.ranges(_kernels.normalise, 0, len(self.vertices), self.vertices, self.weights, values, self.alpha)

    def add_ones(self, weight: float, out: Floats, workers: Workers) -> None:
        """Adds ``weight`` times the normalised kernel of ones to ``out`` (N,)."""
        from segproto.refine import _few, _kernels

        values = np.zeros((self.size, 1), np.float32)
        parts = pairwise(self.edges)
        workers.run([partial(_kernels.splat_ones, a, b, self.rows, self.weights, values) for a, b in parts])
        self.filter(values, workers)
        scale = np.float32(weight * self.alpha)
        workers.ranges(_few.add_sliced, 0, len(self.vertices), self.vertices, self.weights, values, scale, out)

    @property
    def size(self) -> int:
        """Rows of an array of values: none, M vertices, S own rows of parts."""
        return 1 + self.count + len(self.owners)

    def filter(self, values: Floats, workers: Workers) -> None:
        """Joins and blurs (:attr:`size`, K) values that were splat into rows, in place, along all axes."""
        from segproto.refine import _kernels

        workers.ranges(_kernels.join, 0, values.shape[1], self.owners, values)
        for order, starts in self.chains:
            shares = np.linspace(0, len(order), workers.threads + 1).astype(np.int32)
            ends = pairwise(np.searchsorted(starts, shares).tolist())
            workers.run([partial(_kernels.blur, a, b, order, starts, values) for a, b in ends])


def _distinct(
    start: int, stop: int, keys: NDArray[np.int64], vertices: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers the keys of points ``start``..``stop``: the distinct ones, and a table; it starts small, as it is then
    faster, and grows."""
    from segproto.refine import _numbering as numbering

    size, count, at = 1 << 16, 0, start
    table, distinct = np.zeros((size, 2), np.int64), np.empty(size // 2, np.int64)
    while True:
        count, at = numbering.number(at, stop, count, keys, vertices, table, distinct)
        if at == stop:
            return distinct[:count], table
        size *= 4
        table = np.zeros((size, 2), np.int64)
        distinct = np.append(distinct, np.empty(size // 2 - len(distinct), np.int64))
        numbering.enter(distinct[:count], table)


def _chains(
    vertices: NDArray[np.int64], offset: int, table: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    from segproto.refine import _numbering as numbering

    after, order = np.empty(len(vertices) + 1, np.int32), np.empty(len(vertices), np.int32)
    starts = np.empty(len(vertices) // 2 + 1, np.int32)
    rows, length = numbering.chain(vertices, offset, table, after, order, starts)
    return order[:length], starts[: rows + 1]


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
