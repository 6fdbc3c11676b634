"""Heads: from features to class logits, and each logit back to its prototypes. All kinds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segproto.errors import WeightsError
from segproto.model.basis_head import BasisHead
from segproto.model.cam_head import CamHead
from segproto.model.direction_head import DirectionHead, TeacherHead
from segproto.model.head import Contributions as Contributions  # noqa: PLC0414
from segproto.model.head import Head as Head  # noqa: PLC0414
from segproto.model.head import HeadDescription, Reading
from segproto.model.memory_head import MemoryHead
from segproto.model.nearest_head import NearestHead as NearestHead  # noqa: PLC0414
from segproto.model.tap_head import AffinityHead, TapHead
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.grouping import Grouping
from segproto.prototypes.numerics import exact_float32
from segproto.prototypes.pieces import by_pieces
from segproto.prototypes.readout import initial_readout
from segproto.prototypes.similarity import log_activation
from segproto.table import Table


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

    def unit_weights(self) -> Tensor:
        return self.weight

    def describe(self) -> HeadDescription:
        return {"kind": self.kind, "num_features": self.weight.shape[1], "num_classes": self.num_classes}

    @classmethod
    def from_description(cls, value: HeadDescription) -> LinearHead:
        return cls(value["num_features"], value["num_classes"])


class CentredHead(Head):
    """A plain classifier of ``gain * (features - 1/2)``, where features lie between 0 and 1, while it learns.

    :meth:`plain` is the same function of the features, but this one learns better: around 1/2 all features share one
    large direction, which says nothing of any class, and their differences, which do, are small. Adam steps as far in
    either. It is no :class:`LinearHead`, so that nobody takes its weights for those of the features.

    Args:
        num_features: channels of the features.
        num_classes: classes.
        gain: what the differences are multiplied by.
    """

    kind = "centred"

    def __init__(self, num_features: int, num_classes: int, gain: float) -> None:
        super().__init__()
        self.num_classes, self.gain = num_classes, gain
        self.linear = LinearHead(num_features, num_classes)

    def centred(self, features: Tensor) -> Tensor:
        return self.gain * (features - 0.5)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.centred(features))
        return logits

    def contributions(self, features: Tensor, classes: Tensor) -> Contributions:
        return self.linear.contributions(self.centred(features.float()), classes)

    def unit_weights(self) -> Tensor:
        return self.gain * self.linear.weight

    def describe(self) -> HeadDescription:
        return {**self.linear.describe(), "kind": self.kind, "gain": self.gain}

    @classmethod
    def from_description(cls, value: HeadDescription) -> CentredHead:
        return cls(value["num_features"], value["num_classes"], value["gain"])

    @torch.no_grad()
    def plain(self) -> LinearHead:
        """The same function of the features themselves, up to rounding."""
        weight, bias = self.gain * self.linear.weight, self.linear.bias
        head = LinearHead(weight.shape[1], self.num_classes).to(weight.device)
        head.weight.copy_(weight)
        head.bias.copy_(bias - weight.sum(1) / 2)
        return head


class ReadoutHead(Head):
    """Prototypes, perhaps in groups, and a linear readout of either.

    Attributes:
        readout: (C, U), weight of each group, without groups of each prototype, in each class's logit.
    """

    bank: PrototypeBank
    readout: nn.Parameter

    def __init__(self, bank: PrototypeBank) -> None:
        super().__init__()
        self.bank = bank
        self.num_classes = bank.num_classes

    def forward(self, features: Tensor) -> Tensor:
        return by_pieces(
            lambda part: self.from_activations(self.bank.activations(part)), features, len(self.bank.class_of)
        )

    def read(self, features: Tensor) -> Reading:
        distances = self.bank.distances(features)
        activations = log_activation(distances)
        return Reading(self.from_activations(activations), activations, distances)

    def from_activations(self, activations: Tensor) -> Tensor:
        """Activations (B, P, h, w) to logits (B, C, h, w)."""
        return read_out(activations if self.grouping is None else self.grouping(activations), self.readout)

    def unit_weights(self) -> Tensor:
        return self.readout


class PrototypeHead(ReadoutHead):
    """Prototypes and a linear, class-assigned readout (Sacha et al. 2023; Porta et al. 2025, stage 1).

    Args:
        bank: the prototypes.
        incorrect_strength: initial readout weight off the prototype's class (+1 on it).
    """

    kind = "prototype"

    def __init__(self, bank: PrototypeBank, incorrect_strength: float = -0.5) -> None:
        super().__init__(bank)
        self.readout = nn.Parameter(initial_readout(bank.class_of, bank.num_classes, off=incorrect_strength))

    def contributions(self, features: Tensor, classes: Tensor) -> Contributions:
        activations = cell_activations(self.bank, features)
        return Contributions(self.readout[classes] * activations, None, activations.new_zeros(len(classes)))

    def select(self, keep: Tensor, *, into: Tensor | None = None, renormalise: bool = False) -> list[int]:
        readout = self.readout.detach()
        if into is not None:
            readout = torch.zeros_like(readout).index_add_(1, into, readout)
        self.bank = self.bank.select(keep)
        self.readout = nn.Parameter(readout[:, keep].clone())
        kept: list[int] = keep.tolist()
        return kept

    def describe(self) -> HeadDescription:
        return {"kind": self.kind, **describe_bank(self.bank)}

    @classmethod
    def from_description(cls, value: HeadDescription) -> PrototypeHead:
        return cls(build_bank(value))


class GroupedHead(ReadoutHead):
    """Sparse groups of a class's prototypes and a linear readout of groups (Porta et al. 2025, stage 2).

    Args:
        bank: the prototypes (frozen by the stages that train this head).
        groups: groups per class.
        incorrect_strength: initial readout weight off the group's class (+1 on it).
    """

    kind = "grouped"
    grouping: Grouping

    def __init__(self, bank: PrototypeBank, groups: int, incorrect_strength: float = -0.5) -> None:
        super().__init__(bank)
        self.grouping = Grouping(bank.class_of, bank.num_classes, groups)
        start = initial_readout(self.grouping.class_of_group, bank.num_classes, off=incorrect_strength)
        self.readout = nn.Parameter(start)

    def contributions(self, features: Tensor, classes: Tensor) -> Contributions:
        """A group's share goes to its prototypes in proportion to w_i g_i, whose sum is the group's logarithm.

        Why not ``exp`` of each part: the exponential of a sum is no sum of its terms. Shares in proportion to the terms
        of the logarithm add up to the group's value exactly; the logarithm is above 0 wherever a group has members, as
        every similarity ratio is above 1.
        """
        activations = cell_activations(self.bank, features)
        dense = self.grouping.dense()
        logarithm = activations @ dense.T
        groups = self.readout[classes] * torch.exp(logarithm)
        empty = ~(dense > 0).any(1)  # a group without members is the constant exp(0): nobody's, so an offset
        per_unit = torch.where(empty, 0, groups / torch.where(empty, 1, logarithm))
        offset = torch.where(empty, groups, 0).sum(1)
        return Contributions((per_unit @ dense) * activations, torch.where(empty, 0, groups), offset)

    @torch.no_grad()
    def select(self, keep: Tensor, *, into: Tensor | None = None, renormalise: bool = False) -> list[int]:
        """As :meth:`Head.select`; a class without any prototype loses its groups and their readout columns."""
        before = self.grouping.dense()
        if into is not None:
            before = torch.zeros_like(before).index_add_(1, into, before)
        classes = self.grouping.class_of_group
        self.bank = self.bank.select(keep)
        self.grouping = Grouping(self.bank.class_of, self.num_classes, self.grouping.groups)
        rows = torch.isin(classes, self.grouping.class_of_group)
        weights = before[rows][:, keep]
        self.grouping.set_dense_(made_up(weights, before[rows]) if renormalise else weights)
        self.readout = nn.Parameter(self.readout[:, rows].clone())
        kept: list[int] = keep.tolist()
        return kept

    def describe(self) -> HeadDescription:
        return {"kind": self.kind, "groups": self.grouping.groups, **describe_bank(self.bank)}

    @classmethod
    def from_description(cls, value: HeadDescription) -> GroupedHead:
        return cls(build_bank(value), value["groups"])


def read_out(units: Tensor, weight: Tensor) -> Tensor:
    """Logits (B, C, h, w) of units (B, U, h, w) and a readout (C, U), in float32 whatever the autocast.

    Group activations reach 1e4, where a step of bfloat16 is 64.
    """
    with exact_float32(units.device):
        return torch.matmul(weight.float(), units.float().flatten(2)).view(len(units), -1, *units.shape[2:])


def cell_activations(bank: PrototypeBank, features: Tensor) -> Tensor:
    """Activations (N, P) at N cells with features (N, F)."""
    return bank.activations(features.T[None, :, :, None])[0, :, :, 0].T


def made_up(kept: Tensor, before: Tensor) -> Tensor:
    """Rows of weights scaled to the sums they had before; rows that lost everything stay 0."""
    left = kept.sum(1, keepdim=True)
    return torch.where(left > 0, kept * before.sum(1, keepdim=True) / left.clamp_min(1e-12), kept)


def describe_bank(bank: PrototypeBank) -> HeadDescription:
    """The structure of a prototype bank as JSON."""
    return {
        "num_classes": bank.num_classes,
        "num_scales": bank.num_scales,
        "dim": bank.vectors.shape[1],
        "class_of": bank.class_of.tolist(),
        "scale_of": bank.scale_of.tolist(),
    }


def build_bank(value: HeadDescription) -> PrototypeBank:
    """A bank of that structure with zero vectors."""
    class_of = torch.tensor(value["class_of"], dtype=torch.int64)
    scale_of = torch.tensor(value["scale_of"], dtype=torch.int64)
    vectors = torch.zeros(len(class_of), value["dim"])
    return PrototypeBank(vectors, class_of, scale_of, value["num_classes"], value["num_scales"])


KINDS = (
    LinearHead,
    CentredHead,
    PrototypeHead,
    GroupedHead,
    NearestHead,
    MemoryHead,
    BasisHead,
    DirectionHead,
    TeacherHead,
    CamHead,
    TapHead,
    AffinityHead,
)
HEADS: Table[type[Head]] = Table("head", KINDS, "segproto.heads", name="kind")


def build_head(value: HeadDescription) -> Head:
    """The head a description names; it never says what to import.

    Raises:
        WeightsError: for a kind this process does not know.
    """
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in HEADS:
        raise WeightsError(
            f"head kind {kind!r} is unknown here (known: {', '.join(HEADS)}); update segproto, or, for a head of your "
            "own, import what registers it (segproto.model.heads.HEADS.register) before loading"
        )
    return HEADS[kind].from_description(value)
