"""Prototypes that no gradient moves: stored directions of each class, compared by cosine."""

from __future__ import annotations

import torch
from torch import Tensor

from segproto.prototypes.bank import Bank
from segproto.prototypes.embedding import prototype_similarities

USAGE_DECAY = 0.99  # a step: usage looks back about 100 steps


class CosineBank(Bank):
    """K prototypes per class in one buffer, hence never in an optimizer and without weight decay (Zhou et al. 2022).

    Index ``p = c*K + k``; all have scale 0.

    Args:
        vectors: (C, K, D) float, any length; compared as directions.

    Attributes:
        usage: (C, K) float, how many pixels each prototype got lately: the sum of :meth:`record` with ``USAGE_DECAY``.
        started: (C,) int64, the step at which a prototype of the class first got a pixel; -1 = never.
        moves: int64 scalar, steps taken.
    """

    compares = "cosine"
    usage: Tensor
    started: Tensor
    moves: Tensor

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        if vectors.ndim != 3:
            raise ValueError(f"expected vectors (C, K, D), got {tuple(vectors.shape)}")
        classes, per_class, _ = vectors.shape
        self.num_classes, self.num_scales = classes, 1
        self.register_buffer("vectors", vectors.detach().float().clone())
        self.register_buffer("usage", torch.zeros(classes, per_class))
        self.register_buffer("started", torch.full((classes,), -1))
        self.register_buffer("moves", torch.zeros((), dtype=torch.int64))
        self.register_buffer("class_of", torch.arange(classes).repeat_interleave(per_class), persistent=False)
        self.register_buffer("scale_of", torch.zeros(classes * per_class, dtype=torch.int64), persistent=False)

    @property
    def per_class(self) -> int:
        return self.vectors.shape[1]

    def similarities(self, embeddings: Tensor) -> Tensor:
        """Unit embeddings (N, D) to cosines (N, C*K), with gradient to the embeddings alone."""
        return prototype_similarities(embeddings, self.vectors)

    def activations(self, features: Tensor) -> Tensor:
        """Unit embeddings (B, D, h, w) to cosines (B, C*K, h, w)."""
        cosines = self.similarities(features.permute(0, 2, 3, 1).flatten(0, 2))
        return cosines.view(features.shape[0], *features.shape[-2:], -1).permute(0, 3, 1, 2)

    @torch.no_grad()
    def record(self, counts: Tensor) -> None:
        """Takes note of a step, in which each prototype got ``counts`` (C, K) pixels of all processes."""
        first = (self.started < 0) & (counts.sum(1) > 0)
        self.started.copy_(torch.where(first, self.moves, self.started))
        self.usage.mul_(USAGE_DECAY).add_(counts)
        self.moves.add_(1)

    @torch.no_grad()
    def renew(self, vectors: Tensor, placed: Tensor) -> None:
        """Puts prototypes (C, K, D) in their new places where ``placed`` (C, K); they start with an even usage."""
        even = self.usage.mean(1, keepdim=True).expand_as(self.usage)
        self.usage.copy_(torch.where(placed, even, self.usage))
        self.vectors.copy_(vectors)
