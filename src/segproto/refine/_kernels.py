"""The loops of filtering on the CPU lattice, compiled by numba when they are first called; import this module lazily.

Why compiled: a mean-field step (Kraehenbuehl and Koltun 2011, algorithm 1) visits for each pixel the 3 + 6 corners of
its simplices, rows of numbers at places that the picture decides. As array operations it would write those rows, pixels
x 9 x labels, to memory and read them again for every operation; :func:`update` slices, adds, softmaxes and splats a
pixel while its labels are in the cache.

Layout: values on a lattice are (1 + M + S, K) float32, a row per vertex (row 0 = no vertex; S, see
:class:`segproto.refine.lattice.Lattice`), potentials (N, K), a row per pixel. Labels lie side by side and K is a
multiple of ``BLOCK``: the inner loops run over neighbouring numbers and become vector code. Memory is bounded by the
potentials, two arrays of values per lattice (the blurred one and the one splat into, which change places after every
step) and corners and weights: no array has pixels x corners x labels.

Parts: points come in ``lattice.CHUNKS`` parts, and no two parts splat into the same row: no locks, and sums in the same
order with any number of threads. Within a part vertices are numbered as they are met, so that neighbouring pixels use
neighbouring rows; ``fetch`` asks for the rest ahead of its use.

``FAST`` lets sums be reordered and takes all numbers for finite, which they are: padding is -1e4, not -inf.

Set ``SEGPROTO_CACHE`` to keep the compiled code; without it each process compiles anew (some seconds).
All kernels release the interpreter, so that plain threads run them side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np import arrayobj

from segproto.places import cache_root

BLOCK = 8  # labels are padded to a multiple: AVX registers; inner loops stay plain, or LLVM leaves them scalar
AHEAD = 12  # how many rows or keys early memory is asked for: it is the slowest part of all this
FEW = 4  # the same in points
arrays: Any = arrayobj
tools: Any = cgutils
config: Any = numba.config
FAST = {"contract", "nsz", "nnan", "ninf", "reassoc", "arcp"}  # sums may become vector code


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``numba.njit`` without the interpreter lock; on disk only under ``SEGPROTO_CACHE``."""
    root = cache_root()
    before = config.CACHE_DIR
    try:
        if root is not None:
            config.CACHE_DIR = str(root / "numba")
        return numba.njit(function, nogil=True, cache=root is not None, error_model="numpy", fastmath=FAST)  # type: ignore[no-any-return]
    finally:
        config.CACHE_DIR = before


@compiled
def join(start: int, stop: int, owners: np.ndarray, values: np.ndarray) -> None:
    """Adds the own rows of parts, the last rows of ``values``, to their vertices; labels ``start``..``stop``."""
    shift = values.shape[0] - owners.shape[0]
    for i in range(owners.shape[0]):
        out, own = values[owners[i]], values[shift + i]
        for k in range(start, stop):
            out[k] += own[k]


@compiled
def clear(start: int, stop: int, values: np.ndarray) -> None:
    """Zeros in rows ``start``..``stop``."""
    values[start:stop] = 0


def _fetch(typing: Any, array: Any, row: Any) -> Any:
    """Asks for the first 128 bytes of a row of an array of rows, which will be needed soon."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = arrays.make_array(signature.args[0])(context, builder, arguments[0])
        index = context.cast(builder, arguments[1], signature.args[1], types.intp)
        stride = tools.unpack_tuple(builder, values.strides)[0]
        start = builder.bitcast(values.data, ir.IntType(8).as_pointer())
        start = builder.gep(start, [builder.mul(index, stride)])
        number = ir.IntType(32)
        prefetch = tools.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [start.type, number, number, number]),
            "llvm.prefetch.p0i8" if not start.type.is_opaque else "llvm.prefetch.p0",
        )
        for line in (0, 64):
            at = builder.gep(start, [ir.Constant(ir.IntType(64), line)])
            builder.call(prefetch, [at, number(1), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, row), build


fetch: Any = intrinsic(_fetch)


@compiled
def blur(start: int, stop: int, order: np.ndarray, starts: np.ndarray, values: np.ndarray) -> None:
    """One axis, in place: ``v + (n1 + n2) / 2`` along the rows ``start``..``stop`` of :func:`chain`."""
    half = np.float32(0.5)
    labels = values.shape[1]
    before = np.empty(labels, np.float32)
    for c in range(start, stop):
        end = starts[c + 1]
        own, after = values[order[starts[c]]], values[order[starts[c] + 1]]
        fetch(values, order[min(starts[c] + AHEAD, order.shape[0] - 1)])
        fetch(values, order[min(starts[c] + 1 + AHEAD, order.shape[0] - 1)])
        for k in range(labels):
            before[k] = own[k]
            own[k] += half * after[k]
        for i in range(starts[c] + 2, end):
            mid, behind = values[order[i - 1]], values[order[i]]
            fetch(values, order[min(i + AHEAD, order.shape[0] - 1)])
            for k in range(labels):
                v = mid[k]
                mid[k] = v + half * (before[k] + behind[k])
                before[k] = v
        tail = values[order[end - 1]]
        for k in range(labels):
            tail[k] += half * before[k]


@compiled
def splat_ones(start: int, stop: int, rows: np.ndarray, weights: np.ndarray, values: np.ndarray) -> None:
    """Weights of points ``start``..``stop``, summed per row, into column 0."""
    for n in range(start, stop):
        for r in range(rows.shape[1]):
            values[rows[n, r], 0] += weights[n, r]


@compiled
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


@compiled
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


@compiled
def update(  # noqa: PLR0912 -- one pass, by design
    start: int,
    stop: int,
    met: int,
    met_own: int,
    shared: int,
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
    group: np.ndarray,
    q: np.ndarray,
    best: np.ndarray,
) -> None:
    """One mean-field step of points ``start``..``stop`` in one pass: slice, add, softmax, splat.

    ``unary`` (N, K) holds -U, ``times`` (K,) how many labels each column stands for; ``v*`` are the vertices to slice
    from, ``p*`` the rows to splat into, ``w*`` the normalised barycentric weights; ``s*`` is what a sliced value
    counts; ``in*`` are blurred values, ``out*`` is where to splat. ``out1`` is empty; ``out2`` is emptied row by row:
    rows up to ``met``, and from ``shared + 1`` to ``met_own``, are those of other points. Rows go three at a time: both
    lattices have a multiple of three. The first step only softmaxes and splats; the last does not splat: it writes
    ``q`` (K', N), where label k' is column ``group[k']``, or if that is empty the lowest ``best`` (N,) column.
    """
    labels = unary.shape[1]
    acc = np.empty(labels, np.float32)
    for n in range(start - FEW, stop):
        ahead = n + FEW
        if ahead < stop:
            for r in range(v2.shape[1]):
                if ahead == start or v2[ahead, r] != v2[ahead - 1, r]:
                    fetch(in2, v2[ahead, r])
                    row = p2[ahead, r]
                    if row > (
                        met if row <= shared else met_own
                    ):  # numbered as they are met: empty it now, in the cache
                        out2[row] = 0
                        if row <= shared:
                            met = row
                        else:
                            met_own = row
                    else:
                        fetch(out2, row)
        if n < start:
            continue
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
        normaliser = np.float32(1) / total
        if last:
            for k in range(labels):
                acc[k] *= normaliser
            for k in range(q.shape[0]):
                q[k, n] = acc[group[k]]
            if q.shape[0] == 0:
                best[n] = np.argmax(acc)
            continue
        for r in range(0, v1.shape[1], 3):
            x, y, z = out1[p1[n, r]], out1[p1[n, r + 1]], out1[p1[n, r + 2]]
            wx, wy, wz = w1[n, r] * normaliser, w1[n, r + 1] * normaliser, w1[n, r + 2] * normaliser
            for k in range(labels):
                x[k] += wx * acc[k]
                y[k] += wy * acc[k]
                z[k] += wz * acc[k]
        for r in range(0, v2.shape[1], 3):
            x, y, z = out2[p2[n, r]], out2[p2[n, r + 1]], out2[p2[n, r + 2]]
            wx, wy, wz = w2[n, r] * normaliser, w2[n, r + 1] * normaliser, w2[n, r + 2] * normaliser
            for k in range(labels):
                x[k] += wx * acc[k]
                y[k] += wy * acc[k]
                z[k] += wz * acc[k]


@compiled
def energies(start: int, stop: int, unary: np.ndarray, labels: np.ndarray, out: np.ndarray) -> None:
    """``min U - U`` (N, K) of points ``start``..``stop`` and of ``labels`` (K,) among those of U (K', N)."""
    for first in range(start, stop, 256):  # a few cache lines of each label at a time
        last = min(first + 256, stop)
        for k in range(labels.shape[0]):
            for n in range(first, last):
                out[n, k] = unary[labels[k], n]
        for n in range(first, last):
            low = out[n, 0]
            for k in range(1, labels.shape[0]):
                low = min(low, out[n, k])
            for k in range(labels.shape[0]):
                out[n, k] = low - out[n, k]
            for k in range(labels.shape[0], out.shape[1]):
                out[n, k] = np.float32(-1e4)  # stands for no label
