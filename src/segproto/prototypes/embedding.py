"""From embeddings to class scores: norms, similarities and the maximum over a class's prototypes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.prototypes.numerics import exact_float32

ProjectionNorm = Literal["channel", "none", "width_legacy"]


def normalise_projection(features: Tensor, mode: ProjectionNorm) -> Tensor:
    """The L2 norm at the end of the projection head, in float32 (float64 stays).

    Args:
        features: (B, D, h, w).
        mode: ``channel``: over D at each cell; ``none``: unchanged; ``width_legacy``: along each image row, the slip of
            the published code that published checkpoints need (a cell then depends on its whole row).

    Returns:
        (B, D, h, w).
    """
    x = features if features.dtype == torch.float64 else features.float()
    if mode == "none":
        return x
    return F.normalize(x, dim=1 if mode == "channel" else 3, eps=1e-12)


def prototype_similarities(embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """Cosine of every embedding with every prototype; prototypes get no gradient (Zhou et al. 2022).

    Args:
        embeddings: (N, D), L2-normalised rows.
        prototypes: (C, K, D), of any length: normalised here, so that stored ones may come from averages.

    Returns:
        (N, C*K) float32 (float64 for float64 embeddings), column ``c*K + k``.
    """
    with exact_float32(embeddings.device):
        x = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
        rows = F.normalize(prototypes.detach().to(x.dtype), dim=-1).flatten(0, 1)
        return x @ rows.T


def class_scores(similarities: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The nearest prototype of every class (Zhou et al. 2022).

    The largest score over all classes, before any norm, is the out-of-distribution score: low = far from everything.

    Args:
        similarities: (N, C*K), column ``c*K + k``.
        num_classes: C.

    Returns:
        scores (N, C), differentiable; winners (N, C) int64 in 0..K-1, the prototype each class was scored by.
    """
    best = similarities.view(similarities.shape[0], num_classes, -1).max(2)  # len() would fix the size of a graph
    return best.values, best.indices
