"""What every head is: features to logits, with an exact account of each logit, and what others may ask it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from segproto.errors import ConfigError
from segproto.prototypes.bank import Bank
from segproto.prototypes.grouping import Grouping

HeadDescription = dict[str, Any]
"""What ``model.json`` says of a head: ``kind``, and what :meth:`Head.from_description` of that kind needs."""


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


class Reading(NamedTuple):
    """Logits with what the prototypes saw, from one pass.

    Attributes:
        logits: (B, C, h, w) on the grid.
        activations: (B, P, h, w) as of :meth:`Head.activations`; None without prototypes.
        distances: (B, P, h, w) squared; None unless the bank compares by distance.
    """

    logits: Tensor
    activations: Tensor | None = None
    distances: Tensor | None = None


class Parts(NamedTuple):
    """A head's parameters by the learning rate they take: ``lr.prototypes``, ``lr.groups`` or ``lr.readout``."""

    prototypes: list[nn.Parameter]
    groups: list[nn.Parameter]
    readout: list[nn.Parameter]


class Head(nn.Module, ABC):
    """Features (B, F, h, w) to grid logits (B, C, h, w), with an exact account of each logit.

    A kind of head says what it is: ``kind``, :meth:`forward`, :meth:`contributions`, :meth:`describe` and
    :meth:`from_description`. The rest is what reports, figures, stages, edits and exports ask it. Each question has a
    default, derived from ``bank`` and ``grouping`` where it can be, that a kind with another answer overrides.

    Attributes:
        kind: its name in ``model.json``.
        num_classes: C.
        bank: its P prototypes; None = a black box.
        grouping: its groups of prototypes; None = none.
        decides: ``sum``: a class's logit adds up what its prototypes say; ``nearest``: its nearest prototype alone
            decides, so each class needs one, and a copy of one changes nothing.
        relation: how a prototype relates to the training patch recorded for it: projection makes them ``equal``; a mean
            of many features is only ``near`` it; a part of a feature is ``strongest`` there.
        no_graph: why it cannot be exported as a graph for another runtime; None = it can.
        remembers: whether it looks training images up, so that images can be added and forgotten without training.
        caution: what a reader of a report must know before believing its figures; None = nothing.
    """

    kind: ClassVar[str]
    decides: ClassVar[Literal["sum", "nearest"]] = "sum"
    relation: ClassVar[Literal["equal", "near", "strongest"]] = "equal"
    caution: ClassVar[str | None] = None
    no_graph: ClassVar[str | None] = None
    remembers: ClassVar[bool] = False
    num_classes: int
    bank: Bank | None
    grouping: Grouping | None

    def __init__(self) -> None:
        super().__init__()
        self.register_module("bank", None)
        self.register_module("grouping", None)

    # What a kind must say.

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Features (B, F, h, w) to logits (B, C, h, w)."""

    @abstractmethod
    def contributions(self, features: Tensor, classes: Tensor) -> Contributions:
        """Cell features (N, F) of N cells and one class each (N,), to the shares in that class's logit."""

    @abstractmethod
    def describe(self) -> HeadDescription:
        """The structure as JSON, with ``kind``: with the tensors of ``state_dict`` it rebuilds the head."""

    @classmethod
    @abstractmethod
    def from_description(cls, value: HeadDescription) -> Head:
        """The head with that structure and arbitrary tensors."""

    # What its prototypes see.

    def cell_features(self, features: Tensor) -> Tensor:
        """Features (B, F, h, w) to those of which a cell's share in its logits is told (:meth:`contributions`)."""
        return features

    def activations(self, features: Tensor) -> Tensor:
        """Cell features (B, F, h, w) to what the head compares or weighs, (B, P, h, w): without a bank the features."""
        return features.float() if self.bank is None else self.bank.activations(features)

    def activation(self, features: Tensor, prototype: int) -> Tensor:
        """The same of one prototype alone, (B, h, w); kinds with very many of them do not work out the others."""
        return self.activations(features)[:, prototype]

    def blocks(self) -> int:
        """In how many equal parts of their channels features are compared: a bank's scales, or joined layers."""
        return 1 if self.bank is None else self.bank.num_scales

    def distances(self, features: Tensor) -> Tensor:
        """Cell features (B, F, h, w) to squared distances (B, P, h, w); of unit vectors where directions are compared.

        Raises:
            ConfigError: a black box.
        """
        if self.bank is None:
            raise ConfigError(f"a {self.kind} head has no prototypes to be near to")
        return self.bank.distances(features)

    def read(self, features: Tensor) -> Reading:
        """Features (B, F, h, w) to logits and what the prototypes saw; kinds that work them out in one pass say so."""
        logits: Tensor = self(features)
        if self.bank is None:
            return Reading(logits)
        cells = self.cell_features(features)
        distances = self.distances(cells) if self.bank.compares == "distance" else None
        return Reading(logits, self.activations(cells), distances)

    def from_activations(self, activations: Tensor) -> Tensor | None:
        """Activations (B, P, h, w) as of :meth:`activations` to logits (B, C, h, w); None = they are not enough."""
        return None

    def familiarity(self, reading: Reading) -> Tensor:
        """(B, 1, h, w) in -1..1: how like anything known each cell is, for out-of-distribution maps.

        The nearest of all prototypes at its scale decides: its cosine, or ``1 / (1 + squared distance)``. Where nothing
        is compared it is the largest logit x, as ``x / (1 + |x|)``.
        """
        if reading.distances is not None:
            return 1 / (1 + reading.distances.amin(1, keepdim=True))
        if reading.activations is not None and self.bank is not None and self.bank.compares == "cosine":
            return reading.activations.amax(1, keepdim=True).clamp(-1, 1)
        largest = reading.logits.float().amax(1, keepdim=True)
        return largest / (1 + largest.abs())

    def read_familiarity(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, F, h, w) to logits and :meth:`familiarity`; kinds of very many prototypes need not list them."""
        reading = self.read(features)
        return reading.logits, self.familiarity(reading)

    def probabilities(self, logits: Tensor, dim: int = 1) -> Tensor:
        """Logits, or means of some, to class probabilities along ``dim``; kinds whose scores add up to 1 have them."""
        return logits.float().softmax(dim)

    def beside(self, other: Head, kept: Sequence[int] | None) -> Callable[[Tensor], Sequence[Tensor]]:
        """How the logits of ``other`` and of this head, in which it was edited, are worked out from the same features.

        Kinds that can use what the other found say so.

        Args:
            other: the head before.
            kept: its number of each of this head's first prototypes; None = all of them, others may follow.

        Returns:
            Features (B, F, h, w) to both logits, those of ``other`` first.
        """
        return lambda features: (other(features), self(features))

    # What they weigh. The units of a readout are the groups; without groups the prototypes; without these the channels.

    def unit_weights(self) -> Tensor | None:
        """(C, U) of heads whose logits are these weights times the units, up to a bias; None = not made that way."""
        return None

    def class_of_unit(self) -> Tensor | None:
        """(U,) int64, the class of each group or prototype; None for channels."""
        if self.grouping is not None:
            return self.grouping.class_of_group
        return None if self.bank is None else self.bank.class_of

    def figures(self) -> dict[str, Any]:
        """Figures of a stage's result that need no image: of groups, the prototypes they use and their mean size."""
        if self.bank is None or self.grouping is None:
            return {}
        return {
            "prototypes": self.bank.num_prototypes,
            "prototypes_used": int(self.grouping.used_prototypes().sum()),
            "group_average": float(self.grouping.group_average()),
        }

    # How it changes.

    def parts(self) -> Parts:
        """Its parameters by learning rate; what belongs to neither bank nor groups is the readout's."""
        prototypes = [] if self.bank is None else list(self.bank.parameters())
        groups = [] if self.grouping is None else list(self.grouping.parameters())
        others = {id(p) for p in (*prototypes, *groups)}
        return Parts(prototypes, groups, [p for p in self.parameters() if id(p) not in others])

    def select(self, keep: Tensor, *, into: Tensor | None = None, renormalise: bool = False) -> list[int]:
        """Keeps some prototypes with their weights, in place: for pruning, dropping and merging.

        Args:
            keep: int64 indices, ascending, on the bank's device.
            into: (P,) int64, the kept prototype that each one's weights are added to; None = those of others are lost.
            renormalise: what a group loses goes to its other members.

        Returns:
            The old number of each prototype the head has now.

        Raises:
            ConfigError: the kind cannot do without any.
        """
        raise ConfigError(f"a {self.kind} head cannot do without any of its prototypes")
