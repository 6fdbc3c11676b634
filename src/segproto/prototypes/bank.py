"""The prototype bank: stored vectors with their class and scale."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from segproto.prototypes.pieces import plain_inference
from segproto.prototypes.similarity import log_activation, log_activation_, squared_distances


class Bank(nn.Module, ABC):
    """P prototypes, whatever they are: what every bank tells of them.

    Attributes:
        compares: by squared ``distance`` from a feature, as directions by ``cosine``, or by ``strength``: how much of a
            prototype is in a feature, 0 or more.
        vectors: the stored vectors, (P, D) or (C, K, D).
        class_of: (P,) int64, the class of each prototype, 0..C-1.
        scale_of: (P,) int64, its scale, 0..S-1.
        num_classes: C.
        num_scales: S; features have S*D channels.
    """

    compares: ClassVar[Literal["distance", "cosine", "strength"]]
    vectors: Tensor
    class_of: Tensor
    scale_of: Tensor
    num_classes: int
    num_scales: int

    @abstractmethod
    def activations(self, features: Tensor) -> Tensor:
        """Features (B, S*D, h, w) to activations (B, P, h, w), float32."""

    def distances(self, features: Tensor) -> Tensor:
        """Features (B, S*D, h, w) to squared distances (B, P, h, w); of unit vectors where activations are cosines."""
        return 2 - 2 * self.activations(features)

    @property
    def num_prototypes(self) -> int:
        return self.class_of.shape[0]

    @property
    def dim(self) -> int:
        return self.vectors.shape[-1]

    def own_features(self, cells: Tensor) -> Tensor:
        """Of features (..., S*D) at some cells, the block of each prototype's scale: (..., P, D)."""
        return cells.reshape(*cells.shape[:-1], self.num_scales, self.dim)[..., self.scale_of, :]


class PrototypeBank(Bank):
    """Prototypes of all scales and classes, ordered by scale.

    Args:
        vectors: (P, D) float.
        class_of: (P,) class of each prototype, 0..C-1.
        scale_of: (P,) scale of each prototype, 0..S-1, never decreasing.
        num_classes: C.
        num_scales: S; the bank reads features of S*D channels.

    Raises:
        ValueError: for shapes, classes or scales that do not fit together.
    """

    compares = "distance"
    vectors: nn.Parameter

    def __init__(self, vectors: Tensor, class_of: Tensor, scale_of: Tensor, num_classes: int, num_scales: int) -> None:
        super().__init__()
        count = vectors.shape[0]
        if vectors.ndim != 2 or class_of.shape != (count,) or scale_of.shape != (count,):
            raise ValueError(
                f"expected vectors (P, D), class_of (P,), scale_of (P,); got {tuple(vectors.shape)}, "
                f"{tuple(class_of.shape)}, {tuple(scale_of.shape)}"
            )
        _check_range("class_of", class_of, num_classes)
        _check_range("scale_of", scale_of, num_scales)
        if bool((scale_of.diff() < 0).any()):
            raise ValueError("prototypes must be ordered by scale")
        self.num_classes = num_classes
        self.num_scales = num_scales
        self.vectors = nn.Parameter(vectors.detach().clone())
        self.register_buffer("class_of", class_of.to(torch.int64).clone())
        self.register_buffer("scale_of", scale_of.to(torch.int64).clone())
        ends = torch.bincount(self.scale_of.cpu(), minlength=num_scales).cumsum(0).tolist()
        self._scale_ranges = tuple(zip([0, *ends[:-1]], ends, strict=True))

    @classmethod
    def regular(
        cls,
        num_classes: int,
        per_class: int,
        num_scales: int,
        dim: int,
        *,
        generator: torch.Generator | None = None,
    ) -> Self:
        """A full bank, uniform in [0, 1): ``per_class`` prototypes for each class and scale.

        The index is scale-major, then class: ``p = s * (P / S) + c * per_class + m``.
        """
        vectors = torch.rand(num_scales * num_classes * per_class, dim, generator=generator)
        class_of = torch.arange(num_classes).repeat_interleave(per_class).repeat(num_scales)
        scale_of = torch.arange(num_scales).repeat_interleave(num_classes * per_class)
        return cls(vectors, class_of, scale_of, num_classes, num_scales)

    @property
    def scale_ranges(self) -> tuple[tuple[int, int], ...]:
        """(start, end) of the prototype indices of each scale, as host integers."""
        return self._scale_ranges

    def select(self, keep: Tensor) -> PrototypeBank:
        """A new bank with the kept prototypes in their order.

        Args:
            keep: (P,) bool, or int64 indices in ascending order.
        """
        return PrototypeBank(
            self.vectors.detach()[keep], self.class_of[keep], self.scale_of[keep], self.num_classes, self.num_scales
        )

    def distances(self, features: Tensor) -> Tensor:
        """(B, S*D, h, w) features to (B, P, h, w) squared distances, float32."""
        return squared_distances(features, self.vectors, self._scale_ranges)

    def activations(self, features: Tensor) -> Tensor:
        """(B, S*D, h, w) features to (B, P, h, w) log activations, float32."""
        distances = self.distances(features)
        return log_activation_(distances) if plain_inference() else log_activation(distances)


def _check_range(name: str, values: Tensor, limit: int) -> None:
    if values.numel() and not (int(values.min()) >= 0 and int(values.max()) < limit):
        raise ValueError(f"{name} holds {int(values.min())}..{int(values.max())}, expected 0..{limit - 1}")
