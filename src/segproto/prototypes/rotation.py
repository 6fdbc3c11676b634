"""An orthogonal basis in front of a 1x1 classifier, learned so that channels fire at few places and keep to them.

``W f = (W U^T) (U f)`` for any orthogonal U (the idea of InfoDisent, Struski et al. 2024, arXiv 2409.10329), so U is
free to be chosen for people. Three terms of its objective are Hoyer's ratio of norms ("Non-negative matrix
factorization with sparseness constraints", JMLR 5, 2004): 1 where all numbers are of one size, small where most are 0:

- of each channel over places: it fires at few of them (as sparse ICA asks of a source, Hyvarinen & Oja 2000);
- of its differences between neighbouring cells: it changes at few borders, so that it fires on whole regions (as total
  variation asks of a picture, Rudin, Osher & Fatemi 1992);
- of the channels' shares in the logit of the class that the network answers: few of them carry it.

The fourth is how far noise in the image moves a channel, beside how far it varies anyway (the noise fraction that Green
et al., "A transformation for ordering multispectral data in terms of image quality", IEEE TGRS 26, 1988, minimise): a
channel that noise moves fires elsewhere in the next picture of the same thing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

SMALL = 1e-12


class Observed(NamedTuple):
    """What a rotation is learned from.

    Attributes:
        cells: (N, D) features.
        weights: (N, D) weights of the class answered at each cell, less the mean over classes.
        differences: (M, D) between the features of neighbouring cells.
        variance: (D, D) covariance of features over cells.
        unrest: (D, D) mean outer product of what noise in the image changes in a cell's feature.
    """

    cells: Tensor
    weights: Tensor
    differences: Tensor
    variance: Tensor
    unrest: Tensor

    def drawn(self, count: int, generator: torch.Generator) -> Observed:
        """So many rows of each, at random."""
        n, m = (
            torch.randint(len(v), (min(count, len(v)),), generator=generator) for v in (self.cells, self.differences)
        )
        return self._replace(cells=self.cells[n], weights=self.weights[n], differences=self.differences[m])


class TermWeights(NamedTuple):
    """Weights of the terms beside the first: few borders, few channels for a logit, little change by noise."""

    coherence: float = 0.0
    evidence: float = 0.0
    steadiness: float = 0.0


def answered_weights(cells: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The weights (N, D) of the class that a classifier (C, D) answers at each cell (N, D), less the mean class's.

    What all classes share changes no answer.
    """
    answers = (cells @ weight.T + bias).argmax(1)
    return (weight - weight.mean(0))[answers]


def neighbour_differences(features: Tensor) -> Tensor:
    """Features (D, h, w) to the differences between cells side by side and one above the other, (M, D)."""
    across = features[:, :, 1:] - features[:, :, :-1]
    down = features[:, 1:] - features[:, :-1]
    return torch.cat([across.flatten(1), down.flatten(1)], 1).T


def evenness(values: Tensor, dim: int) -> Tensor:
    """``|v|_1 / (sqrt(n) |v|_2)`` along one axis, the mean over the other: between ``1 / sqrt(n)`` and 1.

    Args:
        values: (N, D).
        dim: 0: how evenly each channel fires over places; 1: how evenly the channels fire at each place.
    """
    length = torch.linalg.vector_norm(values, dim=dim).clamp_min(SMALL) * values.shape[dim] ** 0.5
    ratio: Tensor = values.abs().sum(dim) / length
    return ratio.mean()


def noise_fraction(rotation: Tensor, unrest: Tensor, variance: Tensor) -> Tensor:
    """The mean over channels of how far noise moves them, over how far they vary: root mean square, standard deviation.

    Args:
        rotation: U (D, D).
        unrest: see :class:`Observed`.
        variance: likewise.
    """
    moved, varied = (((rotation @ moments) * rotation).sum(1) for moments in (unrest, variance))
    fraction: Tensor = (moved.clamp_min(SMALL) / varied.clamp_min(SMALL)).sqrt().mean()
    return fraction


def rotation_objective(rotation: Tensor, seen: Observed, terms: TermWeights) -> Tensor:
    """What is minimised.

    Args:
        rotation: U (D, D).
        seen: cells, their neighbours, and what noise does to them.
        terms: weights of all but the first term.
    """
    turned = seen.cells @ rotation.T
    objective = evenness(turned, 0)
    if terms.coherence > 0:
        objective = objective + terms.coherence * evenness(seen.differences @ rotation.T, 0)
    if terms.evidence > 0:
        objective = objective + terms.evidence * evenness(turned * (seen.weights @ rotation.T), 1)
    if terms.steadiness > 0:
        objective = objective + terms.steadiness * noise_fraction(rotation, seen.unrest, seen.variance)
    return objective


def learn_rotation(
    seen: Observed,
    terms: TermWeights,
    *,
    steps: int,
    lr: float,
    batch: int,
    generator: torch.Generator,
    progress: Callable[[int, float], None] | None = None,
) -> Tensor:
    """U (D, D) by Adam on torch's orthogonal parametrisation, from the channels as they are.

    Args:
        seen: what it is learned from.
        terms: see :func:`rotation_objective`.
        steps: of Adam; the learning rate falls to 0 along a half cosine.
        lr: its first.
        batch: rows that a step sees.
        generator: of the draws, on the CPU.
        progress: called with (step, objective) after each step.
    """
    dim = seen.cells.shape[1]
    layer = nn.Linear(dim, dim, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(dim))
    orthogonal(layer, orthogonal_map="cayley")
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(1, steps + 1):
        loss = rotation_objective(layer.weight, seen.drawn(batch, generator), terms)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step, loss.item())
    return nearest_orthogonal(layer.weight.detach())


def nearest_orthogonal(matrix: Tensor) -> Tensor:
    """The orthogonal matrix nearest to one that is so but for rounding (its polar factor), worked out in float64."""
    left, _, right = torch.linalg.svd(matrix.double())
    nearest: Tensor = left @ right
    return nearest.to(matrix.dtype)


def random_rotation(dim: int, generator: torch.Generator) -> Tensor:
    """A rotation drawn evenly from all (Mezzadri 2007): the Q of a Gaussian matrix, its R with a positive diagonal."""
    q, r = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=generator))
    drawn: Tensor = q * r.diagonal().sign()
    return drawn.float()


def principal_axes(cells: Tensor) -> Tensor:
    """The axes of a PCA of (centred) cells (N, D), that of most variance first: (D, D), rows orthonormal."""
    _, axes = torch.linalg.eigh(cells.double().T @ cells.double())
    leading: Tensor = axes.flip(1).T.float().contiguous()
    return leading
