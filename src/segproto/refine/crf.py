"""Dense CRF: mean field with Gaussian edge potentials (Kraehenbuehl and Koltun 2011), on CPU and GPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.refine.lattice import Floats, Lattice, Workers


@dataclass(frozen=True)
class CrfSettings:
    """Kernels and iterations; standard deviations in pixels and grey values, weights are Potts rewards.

    Attributes:
        gaussian_sigma: pixels, of the kernel on places alone.
        gaussian_weight: its weight.
        bilateral_sigma: pixels, of the kernel on places and colours.
        bilateral_sigma_rgb: grey values 0..255 of the same kernel.
        bilateral_weight: its weight.
        iterations: mean-field steps; 0 gives ``softmax(-U)``.
        rows_first: order of the features (y, x) instead of (x, y); the lattice depends on it slightly.
    """

    gaussian_sigma: float = 3.0
    gaussian_weight: float = 3.0
    bilateral_sigma: float = 80.0
    bilateral_sigma_rgb: float = 13.0
    bilateral_weight: float = 10.0
    iterations: int = 10
    rows_first: bool = False

    def __post_init__(self) -> None:
        for name in ("gaussian_sigma", "bilateral_sigma", "bilateral_sigma_rgb"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        if self.iterations < 0:
            raise ValueError(f"iterations is {self.iterations}; expected 0 or more")


CRF_SETS = {
    "A": CrfSettings(3, 3, 50, 5, 10, 10),  # IRN and wseg's CAM inference
    "B": CrfSettings(3, 3, 80, 13, 10, 10, rows_first=True),  # wseg, before the affinity network
    "C": CrfSettings(3, 3, 80, 13, 10, 10),  # SEAM, PSA, EPS
    "D": CrfSettings(3, 3, 32, 13, 10, 1),  # the published DeepLab code
    "E": CrfSettings(1, 3, 67, 3, 4, 10),  # DeepLab v2, STEGO, HP, PriMaPs
}
"""The published parameter sets."""


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
        images: (B, 3, H, W) uint8.
        unary: (B, K, H, W) float U = -log probability; any constant may be added a pixel, so negated logits do too.
        settings: kernels and iterations.
        labels: return the best label (lowest on ties) instead of Q.
        threads: on the CPU; ``torch.get_num_threads()`` if None.

    Returns:
        (B, K, H, W) float32 Q, summing to 1 over labels; or (B, H, W) int64 labels.

    Raises:
        ValueError: shapes or types differ from the above.
    """
    _check(images, unary)
    if unary.device.type != "cpu":
        from segproto.refine.lattice_torch import mean_field

        return mean_field(images.to(unary.device), unary, settings, labels=labels)
    threads = max(1, threads or torch.get_num_threads())
    pictures, potentials = images.cpu().numpy(), unary.float().numpy()
    with Workers(threads) as workers:
        if len(pictures) >= threads > 1:  # whole images side by side
            alone: list[Any] = [None] * len(pictures)

            def one(index: int) -> None:
                with Workers(1) as single:
                    alone[index] = _one_image(pictures[index], potentials[index], settings, labels, single)

            assert workers.pool
            list(workers.pool.map(one, range(len(pictures))))
            return torch.stack(alone)
        return torch.stack(
            [_one_image(p, u, settings, labels, workers) for p, u in zip(pictures, potentials, strict=True)]
        )


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


def point_features(image: Any, settings: CrfSettings) -> tuple[Floats, Floats]:
    """Features of the pixels of a (3, H, W) uint8 array: places (N, 2), and places with colours (N, 5)."""
    _, h, w = image.shape
    y, x = np.mgrid[:h, :w].astype(np.float32).reshape(2, -1)
    places = np.stack([y, x] if settings.rows_first else [x, y], 1)
    colours = image.reshape(3, -1).T.astype(np.float32)
    both = [places / np.float32(settings.bilateral_sigma), colours / np.float32(settings.bilateral_sigma_rgb)]
    return places / np.float32(settings.gaussian_sigma), np.concatenate(both, 1)


def distinct_labels(unary: Any) -> tuple[list[int], list[int]]:
    """Of (K, ...) potentials: one label of each group that is alike everywhere, and the place of every label there."""
    firsts: list[int] = []
    group: list[int] = []
    for k in range(len(unary)):
        same = (i for i, f in enumerate(firsts) if np.array_equal(unary[k], unary[f]))
        found = next(same, None)
        if found is None:
            found = len(firsts)
            firsts.append(k)
        group.append(found)
    return firsts, group


def _one_image(image: Any, unary: Any, settings: CrfSettings, labels: bool, workers: Workers) -> Tensor:
    _, h, w = image.shape
    firsts, group = distinct_labels(unary)
    q = torch.from_numpy(_infer(image, unary[firsts].reshape(len(firsts), -1), np.bincount(group), settings, workers))
    if labels:
        return torch.as_tensor(firsts)[q.argmax(1)].view(h, w)
    return q.T[torch.as_tensor(group)].reshape(-1, h, w)


def _infer(image: Any, unary: Any, times: Any, settings: CrfSettings, workers: Workers) -> Floats:
    """Q (N, K) of one image, whose labels count ``times`` (K,) each."""
    from segproto.refine import _kernels as kernels

    count, n = unary.shape
    padded = -(-count // kernels.BLOCK) * kernels.BLOCK
    energy = np.full((n, padded), -1e4, np.float32)  # of columns that stand for no label
    energy[:, :count] = (unary.min(0) - unary).T
    often = np.zeros(padded, np.float32)
    often[:count] = times
    q = np.empty((n, padded), np.float32)
    a, b = (Lattice(f, workers) for f in point_features(image, settings))
    (seen_a, splat_a), (seen_b, splat_b) = a.buffers(padded), b.buffers(padded)
    share_a, share_b = settings.gaussian_weight * a.alpha, settings.bilateral_weight * b.alpha
    for step in range(settings.iterations + 1):
        work = (
            energy, often, step == 0, step == settings.iterations,
            a.vertices, a.rows, a.weights, np.float32(share_a), seen_a, splat_a,
            b.vertices, b.rows, b.weights, np.float32(share_b), seen_b, splat_b, q,
        )  # fmt: skip
        workers.run([partial(kernels.update, start, stop, *work) for start, stop in pairwise(a.edges)])
        if step < settings.iterations:
            seen_a, splat_a = a.filter(splat_a, seen_a, workers)
            seen_b, splat_b = b.filter(splat_b, seen_b, workers)
    return q[:, :count]


def _check(images: Tensor, unary: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}; expected uint8 (B, 3, H, W)")
    if unary.ndim != 4 or unary.shape[0] != images.shape[0] or unary.shape[2:] != images.shape[2:]:
        raise ValueError(f"unary is {tuple(unary.shape)}; expected (B, K, H, W) of images {tuple(images.shape)}")
