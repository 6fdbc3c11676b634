"""Patches to forget as tensors: what is like them, and whether a model's prototypes stay away from them."""

from __future__ import annotations

import math
from typing import TypedDict

import torch
from torch import Tensor

from segproto.errors import ConfigError
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.similarity import EPSILON, log_activation


def prototype_bank(model: Segmenter) -> PrototypeBank:
    """The bank that a gradient may move.

    Raises:
        ConfigError: a head without one.
    """
    bank = model.head.bank
    if not isinstance(bank, PrototypeBank):
        raise ConfigError(f"a {model.head.kind} head has no prototypes that a gradient moves; use --drop")
    return bank


class Marked:
    """Marked patches, before it is known what counts as one.

    Args:
        features: (F, S*D) features of the marked cells.
        class_of: (F,) the class each was marked for.
        scales: S.
    """

    def __init__(self, features: Tensor, class_of: Tensor, scales: int) -> None:
        self.features, self.class_of = features, class_of
        self.blocks = features.view(len(features), scales, -1)

    def to_prototypes(self, bank: PrototypeBank) -> tuple[Tensor, Tensor]:
        """Squared distances (F, P) to the prototypes, each at its own scale, and which pairs are of one class."""
        own = self.blocks[:, bank.scale_of]
        return (own - bank.vectors).square().sum(-1), self.class_of[:, None] == bank.class_of

    def to_cells(self, features: Tensor) -> Tensor:
        """Squared distances (F, S, h*w) to the cells of features (S*D, h, w)."""
        cells = features.view(self.blocks.shape[1], self.blocks.shape[2], -1).transpose(1, 2)
        between = torch.cdist(self.blocks.transpose(0, 1), cells, compute_mode="donot_use_mm_for_euclid_dist")
        return between.square().transpose(0, 1)


class Forgotten(Marked):
    """All patches a model was ever made to forget, as the penalty and the projection need them.

    Attributes:
        radii: (F, S) squared distance within which a feature counts as the patch.
    """

    def __init__(self, features: Tensor, class_of: Tensor, radii: Tensor) -> None:
        super().__init__(features, class_of, radii.shape[1])
        self.radii = radii

    @classmethod
    def of(cls, model: Segmenter, bank: PrototypeBank) -> Forgotten:
        """Those of a model, on its bank's device."""
        patches, device = model.forgotten, bank.vectors.device
        features = torch.tensor([patch.features for patch in patches], device=device)
        class_of = torch.tensor([patch.class_id for patch in patches], device=device)
        return cls(features, class_of, torch.tensor([patch.radii for patch in patches], device=device))


def penalty(marked: Marked, bank: PrototypeBank) -> Tensor:
    """Scalar 0..1: the mean over forgotten patches of the largest activation of a prototype of the class by the patch.

    1 = a prototype equals each of them; the activation is divided by its value at an exact match.
    """
    distances, alike = marked.to_prototypes(bank)
    activation = log_activation(distances) / -math.log(EPSILON)
    return activation.masked_fill(~alike, 0).amax(1).mean()


NearestToForgotten = TypedDict(
    "NearestToForgotten",
    {"prototype": int, "class": str, "image": str, "nearest": int, "distance": float, "times_radius": float},
)
"""The prototype of the class that is now most like a forgotten patch.

Of the patch: ``prototype``, its number when it was marked, its ``class``, and the ``image`` it came from. Of what is
now the ``nearest`` prototype: its squared ``distance`` from the patch, and ``times_radius``: how many times as far (not
squared) that is as the farthest cell of that scale that counts as the patch; above 1 it stays away.
"""


@torch.no_grad()
def nearest_to_forgotten(model: Segmenter) -> list[NearestToForgotten]:
    """Whether what was forgotten stays away: per patch the model was ever made to forget, what is now most like it."""
    bank = prototype_bank(model)
    marked = Forgotten.of(model, bank)
    distances, alike = marked.to_prototypes(bank)
    ratio = (distances / marked.radii[:, bank.scale_of]).sqrt()
    times, nearest = ratio.masked_fill(~alike, torch.inf).min(1)
    return [
        {
            "prototype": patch.prototype,
            "class": model.classes.names[patch.class_id],
            "image": patch.image,
            "nearest": int(p),
            "distance": float(distances[row, p]),
            "times_radius": float(times[row]),
        }
        for row, (patch, p) in enumerate(zip(model.forgotten, nearest.tolist(), strict=True))
    ]
