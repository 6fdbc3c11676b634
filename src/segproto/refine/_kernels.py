"""The loops of the CPU lattice, compiled by numba when they are first called; import this module lazily.

Set ``SEGPROTO_CACHE`` to keep the compiled code; without it each process compiles anew (some seconds).
All kernels release the interpreter, so that plain threads run them side by side.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

BLOCK = 8  # labels are padded to a multiple: AVX registers; inner loops stay plain, or LLVM leaves them scalar


config: Any = numba.config
FAST = {"contract", "nsz", "nnan", "ninf", "reassoc", "arcp"}  # sums may become vector code


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``numba.njit`` without the interpreter lock; on disk only under ``SEGPROTO_CACHE``."""
    root = os.environ.get("SEGPROTO_CACHE")
    before = config.CACHE_DIR
    try:
        if root:
            config.CACHE_DIR = str(Path(root) / "numba")
        return numba.njit(function, nogil=True, cache=bool(root), error_model="numpy", fastmath=FAST)  # type: ignore[no-any-return]
    finally:
        config.CACHE_DIR = before


@_compiled
def embed(  # noqa: PLR0912 -- one pass, by design
    start: int,
    stop: int,
    features: np.ndarray,
    scale: np.ndarray,
    lowest: np.ndarray,
    strides: np.ndarray,
    keys: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Simplex of each point: keys (N, d+1) int64 of its vertices and barycentric weights (N, d+1)."""
    d = features.shape[1]
    step = np.float32(1) / np.float32(d + 1)
    e = np.empty(d + 1, np.float32)
    rem0 = np.empty(d + 1, np.float32)
    rank = np.empty(d + 1, np.int64)
    bary = np.empty(d + 2, np.float32)
    for n in range(start, stop):
        sm = np.float32(0)
        for j in range(d, 0, -1):
            f = features[n, j - 1] * scale[j - 1]
            e[j] = sm - np.float32(j) * f
            sm += f
        e[0] = sm
        total = 0
        for i in range(d + 1):
            q = np.rint(e[i] * step)
            rem0[i] = q * np.float32(d + 1)
            total += int(q)
            rank[i] = 0
        for i in range(d + 1):
            ri = e[i] - rem0[i]
            for j in range(i + 1, d + 1):
                if ri < e[j] - rem0[j]:
                    rank[i] += 1
                else:
                    rank[j] += 1
        for i in range(d + 1):
            rank[i] += total
            if rank[i] < 0:
                rank[i] += d + 1
                rem0[i] += np.float32(d + 1)
            elif rank[i] > d:
                rank[i] -= d + 1
                rem0[i] -= np.float32(d + 1)
        for i in range(d + 2):
            bary[i] = 0
        for i in range(d + 1):
            v = (e[i] - rem0[i]) * step
            bary[d - rank[i]] += v
            bary[d - rank[i] + 1] -= v
        bary[0] += np.float32(1) + bary[d + 1]
        for r in range(d + 1):
            key = np.int64(0)
            for i in range(d):
                c = np.int64(rem0[i]) + r
                if rank[i] > d - r:
                    c -= d + 1
                key += (c - lowest[i]) * strides[i]
            keys[n, r] = key
            weights[n, r] = bary[r]


@_compiled
def _slot(table: np.ndarray, key: int) -> int:
    """Place of ``key``, or of the free place where it belongs, in the open hash table (size a power of 2)."""
    mask = np.uint64(table.shape[0] - 1)
    h = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(29))) & mask
    while table[h] != key and table[h] != -1:
        h = (h + np.uint64(1)) & mask
    return np.int64(h)  # type: ignore[return-value]


@_compiled
def number(
    start: int,
    stop: int,
    count: int,
    keys: np.ndarray,
    vertices: np.ndarray,
    table: np.ndarray,
    ids: np.ndarray,
    found: np.ndarray,
) -> int:
    """Numbers new keys of points ``start``..``stop`` from ``count + 1`` on, in the order they are met.

    Returns how many there are now, or -1 if ``found`` is too short for them.
    """
    last = np.full(keys.shape[1], -1, np.int64)
    for n in range(start, stop):
        for r in range(keys.shape[1]):
            key = keys[n, r]
            if key == last[r]:  # neighbouring pixels mostly share a simplex
                vertices[n, r] = vertices[n - 1, r]
                continue
            last[r] = key
            slot = _slot(table, key)
            if table[slot] == -1:
                if count == found.shape[0]:
                    return -1
                table[slot] = key
                found[count] = key
                count += 1
                ids[slot] = count
            vertices[n, r] = ids[slot]
    return count


@_compiled
def link(
    start: int, stop: int, found: np.ndarray, offsets: np.ndarray, table: np.ndarray, ids: np.ndarray, near: np.ndarray
) -> None:
    """Neighbours (d+1, M+1, 2) of vertices ``start``..``stop`` along each axis; 0 where there is none."""
    for m in range(start, stop):
        for j in range(offsets.shape[0]):
            a = _slot(table, found[m] + offsets[j])
            b = _slot(table, found[m] - offsets[j])
            near[j, m + 1, 0] = ids[a] if table[a] != -1 else 0
            near[j, m + 1, 1] = ids[b] if table[b] != -1 else 0


@_compiled
def part(start: int, stop: int, known: int, row: int, splat: np.ndarray, alias: np.ndarray, owners: np.ndarray) -> int:
    """Gives points ``start``..``stop`` rows of their own for the vertices 1..``known`` that earlier points splat into.

    Own rows are numbered from ``row``; ``owners[own row - first]`` is the vertex. ``alias``
    (known + 1,) is zero. Returns the next free row.
    """
    first = row
    for n in range(start, stop):
        for r in range(splat.shape[1]):
            m = splat[n, r]
            if m <= known:
                if alias[m] == 0:
                    alias[m] = row
                    owners[row - first] = m
                    row += 1
                splat[n, r] = alias[m]
    return row


@_compiled
def join(start: int, stop: int, owners: np.ndarray, values: np.ndarray) -> None:
    """Adds the own rows of parts, the last rows of ``values``, to their vertices; labels ``start``..``stop``."""
    shift = values.shape[0] - owners.shape[0]
    for i in range(owners.shape[0]):
        out, own = values[owners[i]], values[shift + i]
        for k in range(start, stop):
            out[k] += own[k]


@_compiled
def clear(start: int, stop: int, values: np.ndarray) -> None:
    """Zeros in rows ``start``..``stop``."""
    values[start:stop] = 0


@_compiled
def blur(start: int, stop: int, near: np.ndarray, old: np.ndarray, new: np.ndarray) -> None:
    """One axis: ``new = old + (n1 + n2) / 2`` of vertices ``start``..``stop``; row 0 is the absent neighbour."""
    half = np.float32(0.5)
    for m in range(start, stop):
        own, a, b, out = old[m], old[near[m, 0]], old[near[m, 1]], new[m]
        for k in range(old.shape[1]):
            out[k] = own[k] + half * (a[k] + b[k])


@_compiled
def splat_ones(vertices: np.ndarray, weights: np.ndarray, values: np.ndarray) -> None:
    """Weights of all points, summed a vertex, into column 0."""
    for n in range(vertices.shape[0]):
        for r in range(vertices.shape[1]):
            values[vertices[n, r], 0] += weights[n, r]


@_compiled
def normalise(
    start: int, stop: int, vertices: np.ndarray, weights: np.ndarray, values: np.ndarray, alpha: float
) -> None:
    """Multiplies the weights of each point by ``1 / sqrt(K 1 + 1e-20)``, where ``values`` holds the blurred ones."""
    for n in range(start, stop):
        s = np.float32(0)
        for r in range(vertices.shape[1]):
            s += weights[n, r] * values[vertices[n, r], 0]
        s = np.float32(1) / np.sqrt(s * alpha + np.float32(1e-20))
        for r in range(vertices.shape[1]):
            weights[n, r] *= s


@_compiled
def _exp(x: np.float32) -> np.float32:
    """``exp`` for -87 <= x <= 0 to 2e-7, without a call, so that loops over it become vector code (Cephes' expf)."""
    x = max(x, np.float32(-87))
    n = np.floor(x * np.float32(1.44269504088896341) + np.float32(0.5))
    x -= n * np.float32(0.693359375)
    x -= n * np.float32(-2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * x + np.float32(1.3981999507e-3)
    p = p * x + np.float32(8.3334519073e-3)
    p = p * x + np.float32(4.1665795894e-2)
    p = p * x + np.float32(1.6666665459e-1)
    p = p * x + np.float32(5.0000001201e-1)
    p = p * x * x + x + np.float32(1)
    power = np.int32(np.int32(n) + np.int32(127)) << np.int32(23)
    return p * np.int32(power).view(np.float32)


@_compiled
def update(  # noqa: PLR0912 -- one pass, by design
    start: int,
    stop: int,
    unary: np.ndarray,
    times: np.ndarray,
    first: bool,
    last: bool,
    v1: np.ndarray,
    p1: np.ndarray,
    w1: np.ndarray,
    s1: float,
    in1: np.ndarray,
    out1: np.ndarray,
    v2: np.ndarray,
    p2: np.ndarray,
    w2: np.ndarray,
    s2: float,
    in2: np.ndarray,
    out2: np.ndarray,
    q: np.ndarray,
) -> None:
    """One mean-field step of points ``start``..``stop`` in one pass: slice, add, softmax, splat.

    ``unary`` (N, K) holds -U, ``times`` (K,) how many labels each column stands for; ``v*`` are the vertices to slice
    from, ``p*`` the rows to splat into, ``w*`` the normalised barycentric weights; ``s*`` is what a sliced value
    counts; ``in*`` are blurred values, ``out*`` is where to splat. Rows go three at a time: both lattices have a
    multiple of three. The first step only softmaxes and splats; the last writes Q instead of splatting.
    """
    labels = unary.shape[1]
    acc = np.empty(labels, np.float32)
    for n in range(start, stop):
        for k in range(labels):
            acc[k] = unary[n, k]
        if not first:
            for r in range(0, v1.shape[1], 3):
                x, y, z = in1[v1[n, r]], in1[v1[n, r + 1]], in1[v1[n, r + 2]]
                wx, wy, wz = w1[n, r] * s1, w1[n, r + 1] * s1, w1[n, r + 2] * s1
                for k in range(labels):
                    acc[k] += wx * x[k] + wy * y[k] + wz * z[k]
            for r in range(0, v2.shape[1], 3):
                x, y, z = in2[v2[n, r]], in2[v2[n, r + 1]], in2[v2[n, r + 2]]
                wx, wy, wz = w2[n, r] * s2, w2[n, r + 1] * s2, w2[n, r + 2] * s2
                for k in range(labels):
                    acc[k] += wx * x[k] + wy * y[k] + wz * z[k]
        top = acc[0]
        for k in range(1, labels):
            top = max(top, acc[k])
        total = np.float32(0)
        for k in range(labels):
            acc[k] = _exp(acc[k] - top)
        for k in range(labels):
            total += times[k] * acc[k]
        share = np.float32(1) / total
        if last:
            for k in range(labels):
                q[n, k] = acc[k] * share
            continue
        for r in range(0, v1.shape[1], 3):
            x, y, z = out1[p1[n, r]], out1[p1[n, r + 1]], out1[p1[n, r + 2]]
            wx, wy, wz = w1[n, r] * share, w1[n, r + 1] * share, w1[n, r + 2] * share
            for k in range(labels):
                x[k] += wx * acc[k]
                y[k] += wy * acc[k]
                z[k] += wz * acc[k]
        for r in range(0, v2.shape[1], 3):
            x, y, z = out2[p2[n, r]], out2[p2[n, r + 1]], out2[p2[n, r + 2]]
            wx, wy, wz = w2[n, r] * share, w2[n, r + 1] * share, w2[n, r + 2] * share
            for k in range(labels):
                x[k] += wx * acc[k]
                y[k] += wy * acc[k]
                z[k] += wz * acc[k]
