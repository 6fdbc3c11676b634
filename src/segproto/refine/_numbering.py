"""The loops that find and number the vertices of the CPU lattice; import this module lazily, as ``_kernels``.

Why a hash table of its own: it is an array of keys and numbers with linear probing, so that a search is one row of
memory that can be asked for ahead (``fetch``), several parts of an image fill tables of their own side by side, and
numbers come in the order in which points meet vertices, which no sort gives. It is at most half full.
:func:`embed` finds the simplex of a point as in Adams, Baek and Davis (2010, section 3): round to the nearest
remainder-0 point, rank the residuals.
"""

from __future__ import annotations

import numpy as np

from segproto.refine._kernels import AHEAD, compiled, fetch


@compiled
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


@compiled
def _first(table: np.ndarray, key: int) -> np.uint64:
    """Where the search for ``key`` starts in a hash table (a power of 2 long)."""
    h = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return (h ^ (h >> np.uint64(29))) & np.uint64(table.shape[0] - 1)


@compiled
def _slot(table: np.ndarray, key: int) -> int:
    """Row of ``key``, or the free one where it belongs, in a hash table of keys and numbers."""
    mask = np.uint64(table.shape[0] - 1)
    h = _first(table, key)
    while table[h, 0] != key and table[h, 1] != 0:
        h = (h + np.uint64(1)) & mask
    return np.int64(h)  # type: ignore[return-value]


@compiled
def number(
    start: int, stop: int, count: int, keys: np.ndarray, vertices: np.ndarray, table: np.ndarray, distinct: np.ndarray
) -> tuple[int, int]:
    """Numbers new keys of points ``start``..``stop`` from ``count + 1`` on, in the order they are met.

    ``table`` (size, 2) int64 holds keys and their numbers, 0 = free; ``distinct`` is the keys by number.
    Returns how many there are now, and the first point that was left because ``distinct`` is full.
    """
    last = np.zeros(keys.shape[1], np.int64)
    before = np.full(keys.shape[1], -1, np.int64)
    for n in range(start, stop):
        if count + keys.shape[1] > distinct.shape[0]:
            return count, n
        for r in range(keys.shape[1]):
            key = keys[n, r]
            if key != before[r]:  # neighbouring pixels mostly share a simplex
                before[r] = key
                slot = _slot(table, key)
                if table[slot, 1] == 0:
                    distinct[count] = key
                    count += 1
                    table[slot, 0] = key
                    table[slot, 1] = count
                last[r] = table[slot, 1]
            vertices[n, r] = last[r]
    return count, stop


@compiled
def enter(distinct: np.ndarray, table: np.ndarray) -> None:
    """Puts keys that differ into an empty table, numbered 1.. in their order."""
    last = distinct.shape[0] - 1
    for m in range(distinct.shape[0]):
        fetch(table, _first(table, distinct[min(m + AHEAD, last)]))
        slot = _slot(table, distinct[m])
        table[slot, 0] = distinct[m]
        table[slot, 1] = m + 1


@compiled
def merge(
    own: np.ndarray,
    count: int,
    row: int,
    table: np.ndarray,
    merged: np.ndarray,
    numbers: np.ndarray,
    owners: np.ndarray,
) -> tuple[int, int]:
    """Adds the keys ``own`` of another part to a numbering of ``count``.

    ``numbers`` (own + 1, 2) int32 gets for each own number the vertex, and where the part splats to it: the vertex
    itself if it is new, else a row of the part, counted from ``row`` downwards as -1, -2 ..; ``owners`` gets the
    vertices of these. Returns count and row afterwards.
    """
    last = own.shape[0] - 1
    for m in range(own.shape[0]):
        fetch(table, _first(table, own[min(m + AHEAD, last)]))
        slot = _slot(table, own[m])
        if table[slot, 1] == 0:
            merged[count] = own[m]
            count += 1
            table[slot, 0] = own[m]
            table[slot, 1] = count
            numbers[m + 1, 1] = count
        else:
            owners[row] = table[slot, 1]
            row += 1
            numbers[m + 1, 1] = -row
        numbers[m + 1, 0] = table[slot, 1]
    return count, row


@compiled
def renumber(start: int, stop: int, numbers: np.ndarray, count: int, vertices: np.ndarray, rows: np.ndarray) -> None:
    """Own numbers of points ``start``..``stop`` become vertices and splat rows; rows of parts follow ``count``."""
    for n in range(start, stop):
        for r in range(vertices.shape[1]):
            m = vertices[n, r]
            vertices[n, r] = numbers[m, 0]
            row = numbers[m, 1]
            rows[n, r] = row if row > 0 else count - row


@compiled
def chain(
    distinct: np.ndarray, offset: int, table: np.ndarray, after: np.ndarray, order: np.ndarray, starts: np.ndarray
) -> tuple[int, int]:
    """Rows of vertices along one axis: those with a neighbour there are listed in ``order``, row after row.

    ``starts`` gets where each row begins, and the end; ``after`` (M + 1,) is scratch. Returns how many rows and how
    many vertices in them.
    """
    follows = np.zeros(distinct.shape[0] + 1, np.uint8)
    last = distinct.shape[0] - 1
    for m in range(distinct.shape[0]):
        fetch(table, _first(table, distinct[min(m + AHEAD, last)] + offset))
        slot = _slot(table, distinct[m] + offset)
        after[m + 1] = table[slot, 1]
        follows[table[slot, 1]] = 1
    chains, length = 0, 0
    for m in range(1, distinct.shape[0] + 1):
        if follows[m] == 0 and after[m] != 0:
            starts[chains] = length
            chains += 1
            at = m
            while at != 0:
                order[length] = at
                length += 1
                at = after[at]
    starts[chains] = length
    return chains, length
