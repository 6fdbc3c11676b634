"""What every head is: features to logits, with an exact account of each logit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn


class Contributions(NamedTuple):
    """What made one class's logit at each of N cells: ``prototypes.sum(1) + offset`` equals it.

    Attributes:
        prototypes: (N, P) share of every prototype (black box: of every feature channel).
        groups: (N, U) share of every group, or None without groups; sums to the logit less the offset, too.
        offset: (N,) what belongs to no prototype (a bias).
    """

    prototypes: Tensor
    groups: Tensor | None
    offset: Tensor


class Head(nn.Module, ABC):
    """Features (B, F, h, w) to grid logits (B, C, h, w), with an exact account of each logit."""

    kind: ClassVar[str]
    num_classes: int

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Features (B, F, h, w) to logits (B, C, h, w)."""

    @abstractmethod
    def contributions(self, features: Tensor, classes: Tensor) -> Contributions:
        """Features (N, F) of N cells and one class each (N,), to the shares in that class's logit."""

    def cell_features(self, features: Tensor) -> Tensor:
        """Features (B, F, h, w) to those of which a cell's share in its logits is told (:meth:`contributions`)."""
        return features

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The structure as JSON: with the tensors of ``state_dict`` it rebuilds the head."""

    @classmethod
    @abstractmethod
    def from_description(cls, value: dict[str, Any]) -> Head:
        """The head with that structure and arbitrary tensors."""
