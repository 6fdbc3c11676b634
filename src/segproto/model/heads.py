"""Heads: from features to class logits, and each logit back to its prototypes."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segproto.errors import WeightsError
from segproto.model.cam_head import CamHead
from segproto.model.direction_head import DirectionHead, TeacherHead
from segproto.model.head import Contributions as Contributions  # noqa: PLC0414
from segproto.model.head import Head as Head  # noqa: PLC0414
from segproto.model.tap_head import AffinityHead, TapHead
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.cosine_bank import CosineBank
from segproto.prototypes.embedding import ProjectionNorm, class_scores, normalise_projection
from segproto.prototypes.grouping import Grouping
from segproto.prototypes.numerics import exact_float32
from segproto.prototypes.readout import initial_readout


class LinearHead(Head):
    """The black box: a plain 1x1 classifier on the features.

    Args:
        num_features: channels of the features.
        num_classes: classes.
    """

    kind = "linear"

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        bound = num_features**-0.5  # torch's own start of a 1x1 convolution
        self.weight = nn.Parameter(torch.empty(num_classes, num_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, features: Tensor) -> Tensor:
        return F.conv2d(features, self.weight[:, :, None, None], self.bias)

    def contributions(self, features: Tensor, classes: Tensor) -> Contributions:
        return Contributions(features.float() * self.weight[classes], None, self.bias[classes])

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "num_features": self.weight.shape[1], "num_classes": self.num_classes}

    @classmethod
    def from_description(cls, value: dict[str, Any]) -> LinearHead:
        return cls(value["num_features"], value["num_classes"])


class PrototypeHead(Head):
    """Prototypes and a linear, class-assigned readout (Sacha et al. 2023; Porta et al. 2025, stage 1).

    Args:
        bank: the prototypes.
        incorrect_strength: initial readout weight off the prototype's class (+1 on it).
    """

    kind = "prototype"

    def __init__(self, bank: PrototypeBank, incorrect_strength: float = -0.5) -> None:
        super().__init__()
        self.bank = bank
        self.num_classes = bank.num_classes
        self.readout = nn.Parameter(initial_readout(bank.class_of, bank.num_classes, off=incorrect_strength))

    def forward(self, features: Tensor) -> Tensor:
        return self.from_activations(self.bank.activations(features))

    def from_activations(self, activations: Tensor) -> Tensor:
        """Activations (B, P, h, w) to logits (B, C, h, w)."""
        return read_out(activations, self.readout)

    def contributions(self, features: Tensor, classes: Tensor) -> Contributions:
        activations = cell_activations(self.bank, features)
        return Contributions(self.readout[classes] * activations, None, activations.new_zeros(len(classes)))

    def select(self, keep: Tensor) -> None:
        """Keeps these prototypes (indices, ascending) with their readout columns."""
        self.bank = self.bank.select(keep)
        self.readout = nn.Parameter(self.readout.detach()[:, keep].clone())

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, **describe_bank(self.bank)}

    @classmethod
    def from_description(cls, value: dict[str, Any]) -> PrototypeHead:
        return cls(build_bank(value))


class GroupedHead(Head):
    """Sparse groups of a class's prototypes and a linear readout of groups (Porta et al. 2025, stage 2).

    Args:
        bank: the prototypes (frozen by the stages that train this head).
        groups: groups per class.
        incorrect_strength: initial readout weight off the group's class (+1 on it).
    """

    kind = "grouped"

    def __init__(self, bank: PrototypeBank, groups: int, incorrect_strength: float = -0.5) -> None:
        super().__init__()
        self.bank = bank
        self.num_classes = bank.num_classes
        self.groups = groups
        self.grouping = Grouping(bank.class_of, bank.num_classes, groups)
        start = initial_readout(self.grouping.class_of_group, bank.num_classes, off=incorrect_strength)
        self.readout = nn.Parameter(start)

    def forward(self, features: Tensor) -> Tensor:
        return self.from_activations(self.bank.activations(features))

    def from_activations(self, activations: Tensor) -> Tensor:
        """Activations (B, P, h, w) to logits (B, C, h, w)."""
        return read_out(self.grouping(activations), self.readout)

    def contributions(self, features: Tensor, classes: Tensor) -> Contributions:
        """A group's share goes to its prototypes in proportion to w_i g_i, whose sum is the group's logarithm."""
        activations = cell_activations(self.bank, features)
        dense = self.grouping.dense()
        logarithm = activations @ dense.T
        groups = self.readout[classes] * torch.exp(logarithm)
        empty = ~(dense > 0).any(1)  # a group without members is the constant exp(0): nobody's, so an offset
        per_unit = torch.where(empty, 0, groups / torch.where(empty, 1, logarithm))
        offset = torch.where(empty, groups, 0).sum(1)
        return Contributions((per_unit @ dense) * activations, torch.where(empty, 0, groups), offset)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "groups": self.groups, **describe_bank(self.bank)}

    @classmethod
    def from_description(cls, value: dict[str, Any]) -> GroupedHead:
        return cls(build_bank(value), value["groups"])


class NearestHead(Head):
    """Each class scores by its nearest prototype, none of which is ever moved by a gradient (Zhou et al. 2022).

    Args:
        bank: the prototypes.
        projection_norm: of the features before all else, see :func:`normalise_projection`.
        feature_norm: a learned ``layernorm`` over the channels of each cell, as published, or ``none``.
        score_norm: a learned ``layernorm`` over the class scores of each cell, as published (it adds 2C learned numbers
            and forgets how near the nearest is), or ``scale``: scores divided by ``temperature``, nothing learned.
        temperature: of ``scale``.

    Raises:
        ValueError: ``layernorm`` over fewer than three class scores, which leaves their order alone.
    """

    kind = "nearest"

    def __init__(
        self,
        bank: CosineBank,
        projection_norm: ProjectionNorm = "none",
        feature_norm: Literal["layernorm", "none"] = "layernorm",
        score_norm: Literal["layernorm", "scale"] = "layernorm",
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        if score_norm == "layernorm" and bank.num_classes < 3:
            raise ValueError(f"score_norm layernorm needs 3 classes or more, here are {bank.num_classes}; use scale")
        self.bank = bank
        self.num_classes = bank.num_classes
        self.projection_norm: ProjectionNorm = projection_norm
        self.feature_norm = nn.LayerNorm(bank.dim) if feature_norm == "layernorm" else None
        self.score_norm = nn.LayerNorm(bank.num_classes) if score_norm == "layernorm" else None
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        return self.grid_logits(self.bank.similarities(self.embed(features)), features)

    def cell_features(self, features: Tensor) -> Tensor:
        """After the projection norm, the one step in which a cell may depend on others (``width_legacy``)."""
        return normalise_projection(features, self.projection_norm)

    def embed(self, features: Tensor) -> Tensor:
        """Features (B, D, h, w) to unit embeddings (B*h*w, D), float32, in order image, row, column."""
        return self.embed_cells(self.cell_features(features).permute(0, 2, 3, 1).flatten(0, 2))

    def embed_cells(self, cells: Tensor) -> Tensor:
        """Cell features (N, D) to unit embeddings (N, D), float32."""
        with exact_float32(cells.device):
            x = cells.float()
            return F.normalize(x if self.feature_norm is None else self.feature_norm(x), dim=1)

    def grid_logits(self, similarities: Tensor, features: Tensor) -> Tensor:
        """Similarities (B*h*w, P) of the cells of ``features`` (B, D, h, w) to logits (B, C, h, w)."""
        with exact_float32(features.device):
            scores = class_scores(similarities, self.num_classes)[0]
            logits = scores / self.temperature if self.score_norm is None else self.score_norm(scores)
        return logits.view(len(features), *features.shape[-2:], -1).permute(0, 3, 1, 2)

    def activations(self, features: Tensor) -> Tensor:
        """Features as of :meth:`cell_features` (B, D, h, w) to cosines (B, P, h, w)."""
        cosines = self.bank.similarities(self.embed_cells(features.permute(0, 2, 3, 1).flatten(0, 2)))
        return cosines.view(len(features), *features.shape[-2:], -1).permute(0, 3, 1, 2)

    def contributions(self, features: Tensor, classes: Tensor) -> Contributions:
        """The class's nearest prototype has all of it; the score norm shows as a factor and an offset."""
        similarities = self.bank.similarities(self.embed_cells(features))
        scores, winners = class_scores(similarities, self.num_classes)
        rows = classes[:, None]
        own, offset = scores.gather(1, rows), scores.new_zeros(len(scores))
        if self.score_norm is None:
            own = own / self.temperature
        else:
            variance, mean = torch.var_mean(scores, 1, correction=0)
            factor = self.score_norm.weight[classes] / (variance + self.score_norm.eps).sqrt()
            own = own * factor[:, None]
            offset = self.score_norm.bias[classes] - factor * mean
        place = rows * self.bank.per_class + winners.gather(1, rows)
        return Contributions(torch.zeros_like(similarities).scatter(1, place, own), None, offset)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "shape": list(self.bank.vectors.shape),
            "projection_norm": self.projection_norm,
            "feature_norm": "none" if self.feature_norm is None else "layernorm",
            "score_norm": "scale" if self.score_norm is None else "layernorm",
            "temperature": self.temperature,
        }

    @classmethod
    def from_description(cls, value: dict[str, Any]) -> NearestHead:
        options = {key: value[key] for key in ("projection_norm", "feature_norm", "score_norm", "temperature")}
        return cls(CosineBank(torch.zeros(value["shape"])), **options)


def read_out(units: Tensor, weight: Tensor) -> Tensor:
    """Logits (B, C, h, w) of units (B, U, h, w) and a readout (C, U), in float32 whatever the autocast.

    Group activations reach 1e4, where a step of bfloat16 is 64.
    """
    with exact_float32(units.device):
        return torch.matmul(weight.float(), units.float().flatten(2)).view(len(units), -1, *units.shape[2:])


def cell_activations(bank: PrototypeBank, features: Tensor) -> Tensor:
    """Activations (N, P) at N cells with features (N, F)."""
    return bank.activations(features.T[None, :, :, None])[0, :, :, 0].T


def describe_bank(bank: PrototypeBank) -> dict[str, Any]:
    """The structure of a prototype bank as JSON."""
    return {
        "num_classes": bank.num_classes,
        "num_scales": bank.num_scales,
        "dim": bank.vectors.shape[1],
        "class_of": bank.class_of.tolist(),
        "scale_of": bank.scale_of.tolist(),
    }


def build_bank(value: dict[str, Any]) -> PrototypeBank:
    """A bank of that structure with zero vectors."""
    class_of = torch.tensor(value["class_of"], dtype=torch.int64)
    scale_of = torch.tensor(value["scale_of"], dtype=torch.int64)
    vectors = torch.zeros(len(class_of), value["dim"])
    return PrototypeBank(vectors, class_of, scale_of, value["num_classes"], value["num_scales"])


KINDS = (
    LinearHead,
    PrototypeHead,
    GroupedHead,
    NearestHead,
    DirectionHead,
    TeacherHead,
    CamHead,
    TapHead,
    AffinityHead,
)
HEADS: dict[str, type[Head]] = {h.kind: h for h in KINDS}


def build_head(value: dict[str, Any]) -> Head:
    """The head a description names.

    Raises:
        WeightsError: for a kind this version does not know.
    """
    kind = value.get("kind")
    if kind not in HEADS:
        raise WeightsError(f"head kind {kind!r} is unknown here (known: {', '.join(HEADS)}); update segproto")
    return HEADS[kind].from_description(value)
