"""Prototypes that no gradient moves: stored directions of each class, compared by cosine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segproto.prototypes.embedding import prototype_similarities


class CosineBank(nn.Module):
    """K prototypes a class in one buffer, hence never in an optimiser and without weight decay (Zhou et al. 2022).

    Index ``p = c*K + k``; all have scale 0. What a :class:`segproto.prototypes.bank.PrototypeBank` tells about its
    prototypes, this one tells under the same names.

    Args:
        vectors: (C, K, D) float, any length; compared as directions.

    Attributes:
        class_of: (C*K,) int64 class of each prototype.
        scale_of: (C*K,) int64 zeros.
    """

    vectors: Tensor
    class_of: Tensor
    scale_of: Tensor
    num_scales = 1

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        if vectors.ndim != 3:
            raise ValueError(f"expected vectors (C, K, D), got {tuple(vectors.shape)}")
        classes, per_class, _ = vectors.shape
        self.register_buffer("vectors", vectors.detach().float().clone())
        self.register_buffer("class_of", torch.arange(classes).repeat_interleave(per_class), persistent=False)
        self.register_buffer("scale_of", torch.zeros(classes * per_class, dtype=torch.int64), persistent=False)

    @property
    def num_classes(self) -> int:
        return self.vectors.shape[0]

    @property
    def per_class(self) -> int:
        return self.vectors.shape[1]

    @property
    def num_prototypes(self) -> int:
        return self.num_classes * self.per_class

    @property
    def dim(self) -> int:
        return self.vectors.shape[2]

    def similarities(self, embeddings: Tensor) -> Tensor:
        """Unit embeddings (N, D) to cosines (N, C*K), with gradient to the embeddings alone."""
        return prototype_similarities(embeddings, self.vectors)
