"""The loops of mean field for two to five labels, as images with tags have; import this module lazily, as ``_kernels``.

Probabilities sum to one, and so do their filtered values to those of ones: the last label, to which all others are
compared, is never filtered. With so few labels loops over them are too short to become vector code; here they go over
the pixels of a block.
"""

from __future__ import annotations

import numpy as np

from segproto.refine._kernels import _exp, compiled

MOST = 5  # labels
PIXELS = 64  # of a block: its values stay in the first cache


@compiled
def add_sliced(
    start: int, stop: int, vertices: np.ndarray, weights: np.ndarray, values: np.ndarray, scale: float, out: np.ndarray
) -> None:
    """Adds what column 0 of ``values`` is at points ``start``..``stop``, times ``scale``, to ``out`` (N,)."""
    for n in range(start, stop):
        s = np.float32(0)
        for r in range(vertices.shape[1]):
            s += weights[n, r] * values[vertices[n, r], 0]
        out[n] += scale * s


@compiled
def _slice(
    start: int,
    count: int,
    k: int,
    v1: np.ndarray,
    w1: np.ndarray,
    s1: float,
    in1: np.ndarray,
    v2: np.ndarray,
    w2: np.ndarray,
    s2: float,
    in2: np.ndarray,
    out: np.ndarray,
) -> None:
    """Columns ``k`` and, if there is one, ``k + 1`` of both lattices at ``count`` points from ``start``."""
    if k + 1 == in1.shape[1]:
        for i in range(count):
            a, b, n = np.float32(0), np.float32(0), start + i
            for r in range(3):
                a += w1[n, r] * in1[v1[n, r], k]
            for r in range(6):
                b += w2[n, r] * in2[v2[n, r], k]
            out[0, i] = s1 * a + s2 * b
        return
    for i in range(count):
        a, b, c, d, n = np.float32(0), np.float32(0), np.float32(0), np.float32(0), start + i
        for r in range(3):
            v, w = v1[n, r], w1[n, r]
            a += w * in1[v, k]
            b += w * in1[v, k + 1]
        for r in range(6):
            v, w = v2[n, r], w2[n, r]
            c += w * in2[v, k]
            d += w * in2[v, k + 1]
        out[0, i], out[1, i] = s1 * a + s2 * c, s1 * b + s2 * d


@compiled
def _splat(
    start: int,
    count: int,
    k: int,
    p1: np.ndarray,
    w1: np.ndarray,
    out1: np.ndarray,
    p2: np.ndarray,
    w2: np.ndarray,
    out2: np.ndarray,
    values: np.ndarray,
) -> None:
    """Adds values of ``count`` points from ``start`` to columns ``k`` and, if there is one, ``k + 1``."""
    if k + 1 == out1.shape[1]:
        for i in range(count):
            n, a = start + i, values[k, i]
            for r in range(3):
                out1[p1[n, r], k] += w1[n, r] * a
            for r in range(6):
                out2[p2[n, r], k] += w2[n, r] * a
        return
    for i in range(count):
        n, a, b = start + i, values[k, i], values[k + 1, i]
        for r in range(3):
            p, w = p1[n, r], w1[n, r]
            out1[p, k] += w * a
            out1[p, k + 1] += w * b
        for r in range(6):
            p, w = p2[n, r], w2[n, r]
            out2[p, k] += w * a
            out2[p, k + 1] += w * b


@compiled
def update_few(  # noqa: PLR0912 -- one pass, by design
    start: int,
    stop: int,
    met: int,
    met_own: int,
    shared: int,
    unary: np.ndarray,
    ones: np.ndarray,
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
    group: np.ndarray,
    q: np.ndarray,
    best: np.ndarray,
) -> None:
    """As :func:`segproto.refine._kernels.update`, of K = 2..5 labels.

    ``unary`` (K - 1, N) holds U of the last label less that of each other, ``ones`` (N,) both kernels of ones,
    ``times`` (K,) how many labels each stands for; values have K - 1 columns.
    """
    labels = unary.shape[0]
    f = np.empty((labels + 1, PIXELS), np.float32)
    top, rest, both = np.empty(PIXELS, np.float32), np.empty(PIXELS, np.float32), np.empty((2, PIXELS), np.float32)
    for begin in range(start, stop, PIXELS):
        count = min(PIXELS, stop - begin)
        for k in range(labels):
            for i in range(count):
                f[k, i] = unary[k, begin + i]
        if not first:
            for i in range(count):
                rest[i] = ones[begin + i]
            for pair in range(0, labels, 2):
                _slice(begin, count, pair, v1, w1, s1, in1, v2, w2, s2, in2, both)
                for k in range(pair, min(pair + 2, labels)):
                    for i in range(count):
                        f[k, i] += both[k - pair, i]
                        rest[i] -= times[k] * both[k - pair, i]
            step = np.float32(1) / times[labels]
            for k in range(labels):
                for i in range(count):
                    f[k, i] -= step * rest[i]
        for i in range(count):
            top[i] = np.float32(0)
        for k in range(labels):
            for i in range(count):
                top[i] = max(top[i], f[k, i])
        if last and q.shape[0] == 0:
            for i in range(count):
                best_label = labels  # of equal labels the first
                for k in range(labels - 1, -1, -1):
                    if f[k, i] >= top[i]:
                        best_label = k
                best[begin + i] = best_label
            continue
        for i in range(count):
            f[labels, i] = _exp(-top[i])
            rest[i] = times[labels] * f[labels, i]
        for k in range(labels):
            for i in range(count):
                f[k, i] = _exp(f[k, i] - top[i])
                rest[i] += times[k] * f[k, i]
        for i in range(count):
            rest[i] = np.float32(1) / rest[i]
        for k in range(labels + 1):
            for i in range(count):
                f[k, i] *= rest[i]
        if last:
            for k in range(q.shape[0]):
                for i in range(count):
                    q[k, begin + i] = f[group[k], i]
            continue
        for n in range(begin, begin + count):  # rows are numbered as they are met: the new ones are emptied here
            for r in range(p2.shape[1]):
                row = p2[n, r]
                if row > (met if row <= shared else met_own):
                    for k in range(labels):
                        out2[row, k] = 0
                    if row <= shared:
                        met = row
                    else:
                        met_own = row
        for k in range(0, labels, 2):
            _splat(begin, count, k, p1, w1, out1, p2, w2, out2, f)
