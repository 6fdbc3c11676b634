"""Dense CRF: mean field with Gaussian edge potentials (Kraehenbuehl and Koltun 2011), on CPU and GPU."""

from __future__ import annotations

from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.refine.crf_settings import CrfSettings
from segproto.refine.lattice import CHUNKS, Floats, Lattice, Scratch, Workers


@torch.no_grad()
def dense_crf(
    images: Tensor,
    unary: Tensor,
    settings: CrfSettings,
    *,
    labels: bool = False,
    threads: int | None = None,
) -> Tensor:
    """Q of the dense CRF, or its best label (Kraehenbuehl and Koltun 2011, algorithm 1).

    ``Q_0 = softmax(-U)``; then ``Q = softmax(-U + sum_k w_k n_k K_k (n_k Q))`` over all pixels at once, with
    ``n_k = 1 / sqrt(K_k 1)`` and the pixel's own term included, filtered on a permutohedral lattice. Labels with
    the same unary at every pixel stay alike and are carried as one that counts as often in the softmax (exact).
    On the CPU a compiled lattice, the same values for any batch and number of threads; elsewhere torch operations.

    Args:
        images: (B, 3, H, W) uint8; or (1, 3, H, W), of which all potentials are: its lattice is built once.
        unary: (B, K, H, W) float U = -log probability; any constant may be added per pixel, so negated logits do too.
        settings: kernels and iterations.
        labels: return the best label (lowest on ties) instead of Q.
        threads: on the CPU; ``torch.get_num_threads()`` if None.

    Returns:
        (B, K, H, W) float32 Q, summing to 1 over labels; or (B, H, W) int64 labels.

    Raises:
        ValueError: shapes or types differ from the above.
    """
    _check(images, unary)
    if not len(unary):
        return unary.float() if not labels else unary.new_zeros((0, *unary.shape[2:]), dtype=torch.int64)
    if unary.device.type != "cpu":
        from segproto.refine.lattice_torch import mean_field

        every = images.to(unary.device).expand(len(unary), -1, -1, -1)
        return mean_field(every, unary, settings, labels=labels)
    threads = max(1, threads or torch.get_num_threads())
    pictures, potentials = images.cpu().numpy(), unary.float().numpy()
    count = len(potentials)
    lanes = min(count, max(1, threads // CHUNKS))  # images side by side; each uses its memory alone
    shared = threads // lanes
    results: list[Any] = [None] * count
    spatial = spatial_lattice(pictures.shape[2], pictures.shape[3], settings.gaussian_sigma, settings.rows_first)
    with Workers(threads) as workers:
        alone = Lattice(point_features(pictures[0], settings), workers) if len(pictures) == 1 else None

    def lane(first: int) -> None:
        scratch = Scratch()
        with Workers(shared) as workers:
            for i in range(first, count, lanes):
                picture = pictures[min(i, len(pictures) - 1)]
                results[i] = _one_image(picture, potentials[i], settings, labels, spatial, alone, workers, scratch)

    with Workers(lanes) as side_by_side:
        side_by_side.run([partial(lane, first) for first in range(lanes)])
    return torch.stack(results)


def unary_from_labels(labels: Tensor, num_classes: int, certainty: float = 0.7) -> Tensor:
    """U of hard labels: ``-ln certainty`` at the label, ``-ln((1 - certainty) / (K - 1))`` elsewhere.

    Args:
        labels: (B, H, W) integers 0..K-1.
        num_classes: K >= 2.
        certainty: probability of the given label.

    Returns:
        (B, K, H, W) float32.
    """
    own = F.one_hot(labels.long(), num_classes).movedim(-1, 1).bool()
    high = torch.tensor((1 - certainty) / (num_classes - 1)).log().neg()
    return torch.where(own, torch.tensor(certainty).log().neg().to(own.device), high.to(own.device))


def unary_from_probabilities(probabilities: Tensor) -> Tensor:
    """U = -ln(p clipped to 1e-5..1); they need not sum to one. (B, K, H, W) to the same, float32."""
    return probabilities.float().clamp(1e-5, 1).log().neg()


@lru_cache(maxsize=2)
def spatial_lattice(height: int, width: int, sigma: float, rows_first: bool) -> Lattice:
    """The lattice of the places of an image's pixels, for the Gaussian kernel: the same for all images of a size."""
    with Workers(1) as workers:
        return Lattice(_places(height, width, rows_first) / np.float32(sigma), workers)


def point_features(image: Any, settings: CrfSettings) -> Floats:
    """Places and colours (N, 5) of the pixels of a (3, H, W) uint8 image, for the bilateral kernel."""
    positions = _places(image.shape[1], image.shape[2], settings.rows_first) / np.float32(settings.bilateral_sigma)
    ordered = image[::-1] if settings.colours == "bgr" else image
    colours = ordered.reshape(3, -1).T.astype(np.float32) / np.float32(settings.bilateral_sigma_rgb)
    return np.concatenate([positions, colours], 1)


def _places(height: int, width: int, rows_first: bool) -> Floats:
    y, x = np.mgrid[:height, :width].astype(np.float32).reshape(2, -1)
    return np.stack([y, x] if rows_first else [x, y], 1)


def distinct_labels(unary: Any) -> tuple[list[int], list[int]]:
    """Of (K, N) potentials: one label of each group that is alike everywhere, and the place of every label there."""
    firsts: list[int] = []
    group: list[int] = []
    sample = unary[:, :: max(1, unary.shape[1] // 64)]
    for k in range(len(unary)):
        alike = (i for i, f in enumerate(firsts) if np.array_equal(sample[k], sample[f]))
        same = next((i for i in alike if np.array_equal(unary[k], unary[firsts[i]])), None)
        if same is None:
            same = len(firsts)
            firsts.append(k)
        group.append(same)
    return firsts, group


def _one_image(
    image: Any,
    unary: Any,
    settings: CrfSettings,
    labels: bool,
    a: Lattice,
    bilateral: Lattice | None,
    workers: Workers,
    scratch: Scratch,
) -> Tensor:
    """Q (K, H, W) or the best label (H, W); ``a`` is the lattice of places, ``bilateral`` of places and colours."""
    from segproto.refine import _few
    from segproto.refine import _kernels as kernels

    _, h, w = image.shape
    n = h * w
    potentials = np.ascontiguousarray(unary).reshape(-1, n)
    firsts, group = distinct_labels(potentials)
    few = 1 < len(firsts) <= _few.MOST
    columns = len(firsts) - 1 if few else -(-len(firsts) // kernels.BLOCK) * kernels.BLOCK
    often = np.zeros(columns + few, np.float32)
    often[: len(firsts)] = np.bincount(group)
    b = Lattice(point_features(image, settings), workers) if bilateral is None else bilateral
    share_a, share_b = settings.gaussian_weight * a.alpha, settings.bilateral_weight * b.alpha
    given: tuple[Any, ...]
    if few:
        ones = np.zeros(n, np.float32)
        a.add_ones(settings.gaussian_weight, ones, workers)
        b.add_ones(settings.bilateral_weight, ones, workers)
        given = (potentials[firsts[-1]] - potentials[firsts[:-1]], ones)
    else:
        energy = scratch.take("energy", n, columns)
        workers.ranges(kernels.energies, 0, n, potentials, np.asarray(firsts), energy)
        given = (energy,)
    update = _few.update_few if few else kernels.update
    seen_a, splat_a = (scratch.take(f"a{i}", a.size, columns) for i in range(2))
    seen_b, splat_b = (scratch.take(f"b{i}", b.size, columns) for i in range(2))
    q = np.empty((0 if labels else len(group), n), np.float32)
    best = np.empty(n if labels else 0, np.int64)
    for step in range(settings.iterations + 1):
        if step < settings.iterations:
            workers.ranges(kernels.clear, 0, len(splat_a), splat_a)
        work = (
            *given, often, step == 0, step == settings.iterations,
            a.vertices, a.rows, a.weights, np.float32(share_a), seen_a, splat_a,
            b.vertices, b.rows, b.weights, np.float32(share_b), seen_b, splat_b, np.asarray(group), q, best,
        )  # fmt: skip
        parts = zip(pairwise(b.edges), b.met, strict=True)
        workers.run([partial(update, *part, *met, b.count, *work) for part, met in parts])
        if step < settings.iterations:
            a.filter(splat_a, workers)
            b.filter(splat_b, workers)
        seen_a, splat_a, seen_b, splat_b = splat_a, seen_a, splat_b, seen_b
    if labels:
        return torch.as_tensor(firsts)[torch.from_numpy(best)].view(h, w)
    return torch.from_numpy(q).view(-1, h, w)


def _check(images: Tensor, unary: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}; expected uint8 (B, 3, H, W)")
    if unary.ndim != 4 or len(images) not in (1, len(unary)) or unary.shape[2:] != images.shape[2:]:
        raise ValueError(f"unary is {tuple(unary.shape)}; expected (B, K, H, W) of images {tuple(images.shape)}")
