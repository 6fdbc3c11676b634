"""The permutohedral lattice in torch operations, for any device; the whole batch at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.refine.lattice import axis_scales, key_layout

if TYPE_CHECKING:
    from segproto.refine.crf_settings import CrfSettings


class TorchLattice:
    """The lattice of the points of B images, with the symmetric normalisation of its kernel.

    Splatting and slicing are weighted sums of gathered rows, without atomics: a device gives the same values twice.

    Args:
        features: (B, N, d) float32 coordinates over their standard deviations; d >= 2.

    Raises:
        DataError: the features spread too far to be numbered (:func:`segproto.refine.lattice.key_layout`).
    """

    def __init__(self, features: Tensor) -> None:
        d = features.shape[-1]
        keys, weights, strides = _embed(features)
        vertices, index = torch.unique(keys, return_inverse=True)
        flat = index.flatten()
        order = flat.argsort(stable=True)
        self.vertices = flat.view(-1, d + 1)
        self.points = order // (d + 1)
        self.starts = torch.searchsorted(flat[order], torch.arange(len(vertices), device=vertices.device))
        self.near = _neighbours(vertices, strides)
        self.alpha = 1 / (1 + 2.0**-d)
        self.weights = weights.view(-1, d + 1)
        self.splat_weights = weights.flatten()[order]
        sums = self.filter(torch.ones(len(self.vertices), 1, device=features.device))
        self.weights = self.weights * (sums + 1e-20).rsqrt()
        self.splat_weights = self.weights.flatten()[order]

    def filter(self, values: Tensor) -> Tensor:
        """``n K (n values)`` of (B*N, K): splat, blur along all axes in turn, slice."""
        v = F.embedding_bag(self.points, values, self.starts, mode="sum", per_sample_weights=self.splat_weights)
        v = F.pad(v, (0, 0, 0, 1))  # the last row stands for vertices that are not there
        for a, b in self.near:
            v = v.index_select(0, a).add_(v.index_select(0, b)).mul_(0.5).add_(v)
            v[-1:].zero_()
        return F.embedding_bag(self.vertices, v, mode="sum", per_sample_weights=self.weights) * self.alpha


def _embed(features: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Keys (B, N, d+1) of each point's simplex, barycentric weights alike, and the strides of the keys."""
    d = features.shape[-1]
    scaled = features * torch.from_numpy(axis_scales(d)).to(features)
    low, high = scaled.amin((0, 1)).cpu().numpy(), scaled.amax((0, 1)).cpu().numpy()
    lowest, strides, size = key_layout(low, high, len(features))
    total = torch.zeros_like(scaled[..., 0])
    elevated = []
    for j in range(d, 0, -1):
        elevated.append(total - j * scaled[..., j - 1])
        total = total + scaled[..., j - 1]
    e = torch.stack([total, *elevated[::-1]], -1)
    quotient = torch.round(e * torch.tensor(1 / (d + 1), dtype=torch.float32))
    rem0 = quotient * (d + 1)
    rank = _ranks(e - rem0) + quotient.sum(-1, keepdim=True).long()
    wrap = (rank < 0).long() - (rank > d).long()
    rank, rem0 = rank + wrap * (d + 1), rem0 + (wrap * (d + 1)).float()
    sorted_v = torch.empty_like(e).scatter_(-1, rank, (e - rem0) * torch.tensor(1 / (d + 1), dtype=torch.float32))
    down = sorted_v.flip(-1)
    weights = down - F.pad(down, (1, 0))[..., :-1]
    weights[..., 0] += 1 - sorted_v[..., 0]
    corner = torch.arange(d + 1, device=e.device)[:, None]
    shift = corner - (d + 1) * (rank[..., None, :d] > d - corner)
    strides_t = torch.from_numpy(strides).to(e.device)
    base = ((rem0[..., :d].long() - torch.from_numpy(lowest).to(e.device)) * strides_t).sum(-1)
    base = base + size * torch.arange(len(features), device=e.device)[:, None]
    return base[..., None] + (shift * strides_t).sum(-1), weights, strides.tolist()


def _ranks(residual: Tensor) -> Tensor:
    """Places 0.. by descending value along the last axis; of equal values the later has the larger rank."""
    own, other = residual[..., :, None], residual[..., None, :]
    earlier = torch.ones(residual.shape[-1], residual.shape[-1], dtype=torch.bool, device=residual.device).tril(-1)
    return ((other > own) | ((other == own) & earlier)).sum(-1)


def _neighbours(vertices: Tensor, strides: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Along each axis, the rows of both neighbours of every vertex; row M = none, also those of row M."""
    d, count = len(strides), len(vertices)
    near = []
    for j in range(d + 1):
        step = (strides[j] if j < d else 0) * (d + 1) - sum(strides)
        both = []
        for key in (vertices + step, vertices - step):
            row = torch.searchsorted(vertices, key)
            exists = vertices[row.clamp_max(count - 1)] == key
            both.append(F.pad(torch.where(exists, row, count), (0, 1), value=count))
        near.append((both[0], both[1]))
    return near


@torch.no_grad()
def mean_field(images: Tensor, unary: Tensor, settings: CrfSettings, *, labels: bool = False) -> Tensor:
    """:func:`segproto.refine.crf.dense_crf` on the device of ``images`` and ``unary``; nothing waits between the steps.

    Args:
        images: (B, 3, H, W) uint8.
        unary: (B, K, H, W) float, same device.
        settings: kernels and iterations.
        labels: return the best label instead of Q.

    Returns:
        (B, K, H, W) float32, or (B, H, W) int64.
    """
    b, k, h, w = unary.shape
    energy, times, first, group = _collapse(unary.float().flatten(2))
    energy = (energy.amin(1, keepdim=True) - energy).movedim(1, 2).reshape(b * h * w, -1)
    times = times.repeat_interleave(h * w, 0)
    lattices = [TorchLattice(f) for f in _features(images, settings)]
    weights = (settings.gaussian_weight, settings.bilateral_weight)

    def softmax(logits: Tensor) -> Tensor:
        e = (logits - logits.amax(1, keepdim=True)).exp_()
        return e.div_((e * times).sum(1, keepdim=True))

    q = softmax(energy)
    for _ in range(settings.iterations):
        logits = energy.clone()
        for lattice, weight in zip(lattices, weights, strict=True):
            logits.add_(lattice.filter(q), alpha=weight)
        q = softmax(logits)
    q = q.view(b, h * w, -1)
    if labels:
        best = q.masked_fill(times.view_as(q) == 0, -1).argmax(2)
        return first.gather(1, best).view(b, h, w)
    return q.movedim(1, 2).gather(1, group[..., None].expand(-1, -1, h * w)).reshape(b, k, h, w)


def _collapse(unary: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Labels of (B, K, N) that are alike everywhere in an image become one.

    Returns:
        Potentials (B, R, N); how many labels each counts for (B, R), 0 where an image has fewer than R; the first label
        of each (B, R); the place of every label (B, K).
    """
    b, k, n = unary.shape
    random = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(unary.device)
    sign = torch.stack([row.double() @ random for row in unary])  # equal labels have equal signatures
    guess = (sign[:, :, None] == sign[:, None, :]).to(torch.uint8).argmax(2)  # the first that may be equal
    same = torch.stack([(row == row[g]).all(1) for row, g in zip(unary, guess, strict=True)])
    label = torch.arange(k, device=unary.device).expand(b, k)
    leader = torch.where(same, guess, label)
    own = leader == label
    rank = own.cumsum(1) - 1
    count = int(own.sum(1).max())
    first = torch.zeros(b, count + 1, dtype=torch.int64, device=unary.device)
    first.scatter_(1, torch.where(own, rank, count), label)
    first = first[:, :count]
    group = rank.gather(1, leader)
    times = torch.zeros(b, count, device=unary.device).scatter_add_(1, group, torch.ones(b, k, device=unary.device))
    return unary.gather(1, first[..., None].expand(-1, -1, n)), times, first, group


def _features(images: Tensor, settings: CrfSettings) -> tuple[Tensor, Tensor]:
    """Features of the pixels: places (1, N, 2), shared by the images, as (B, N, 2), and with colours (B, N, 5)."""
    b, _, h, w = images.shape
    rows, columns = torch.arange(h, device=images.device).float(), torch.arange(w, device=images.device).float()
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    positions = torch.stack([y, x] if settings.rows_first else [x, y], -1).view(1, -1, 2).expand(b, -1, -1)
    ordered = images.flip(1) if settings.colours == "bgr" else images
    colours = ordered.flatten(2).movedim(1, 2).float() / settings.bilateral_sigma_rgb
    return positions / settings.gaussian_sigma, torch.cat([positions / settings.bilateral_sigma, colours], 2)
