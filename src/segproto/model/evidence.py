"""What an explanation says about a pixel or a region, as plain data for people and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from segproto.errors import ConfigError
from segproto.model.head import Contributions, Head
from segproto.model.provenance import PrototypeSource
from segproto.model.segmenter import Segmenter
from segproto.table import nearest


def class_number(names: Sequence[str], named: int | str | None) -> int | None:
    """The number of a class that is named by name or number; None for None.

    Raises:
        ConfigError: there is none of that name or number.
    """
    if isinstance(named, str):
        if named not in names:
            raise ConfigError(f"class {named!r}: is none of the model's; {nearest(named, names)}")
        return names.index(named)
    if named is not None and not 0 <= named < len(names):
        raise ConfigError(f"class {named}: expected 0..{len(names) - 1}, or a name")
    return named


@dataclass(frozen=True)
class PrototypeEvidence:
    """One prototype's part in a logit (black box: one feature channel's, without class, scale and source).

    Attributes:
        prototype: its index.
        class_id: the class it belongs to.
        scale: its scale.
        activation: its activation (black box: the channel's value), upsampled, the mean over a region.
        contribution: its share of the logit.
        source: the training patch it equals.
    """

    prototype: int
    class_id: int | None
    scale: int | None
    activation: float
    contribution: float
    source: PrototypeSource | None


@dataclass(frozen=True)
class GroupEvidence:
    """One group's part in a logit.

    Attributes:
        group: its index.
        class_id: the class it belongs to.
        contribution: its share of the logit.
        members: (prototype, weight in the group) of its members, heaviest first.
    """

    group: int
    class_id: int
    contribution: float
    members: tuple[tuple[int, float], ...]


@dataclass(frozen=True, repr=False)
class Evidence:
    """Why one class has its logit, at a pixel or on average over a region.

    Attributes:
        class_id: the class.
        class_name: its name.
        logit: its logit.
        offset: the part of the logit that belongs to no prototype.
        prototypes: the largest contributions by size, largest first.
        others: the sum of the contributions not listed: ``logit = offset + sum(prototypes) + others``.
        groups: contributions of the groups by size, another split of the same logit; None without groups.
        pictures: of the listed prototypes' training patches, as stored, by prototype.
    """

    class_id: int
    class_name: str
    logit: float
    offset: float
    prototypes: tuple[PrototypeEvidence, ...]
    others: float
    groups: tuple[GroupEvidence, ...] | None
    pictures: Mapping[int, bytes] = field(default_factory=dict, kw_only=True, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Numbers and words, without the pictures."""
        return without_pictures(asdict(self))

    def __repr__(self) -> str:
        from segproto.model.words import evidence_words

        return f"<{evidence_words(self)}>"

    def _repr_html_(self) -> str:
        from segproto.model.words import evidence_table

        return evidence_table(self, "mean over pixels,")


def without_pictures(value: dict[str, Any]) -> dict[str, Any]:
    """Evidence as plain data, that of a runner-up in it, too."""
    return {
        key: without_pictures(item) if isinstance(item, dict) and "pictures" in item else item
        for key, item in value.items()
        if key != "pictures"
    }


@dataclass(frozen=True, repr=False)
class PixelEvidence(Evidence):
    """Evidence at one pixel.

    Attributes:
        y: image row.
        x: image column.
        probability: softmax of the logits.
        runner_up: the same for the strongest other class; None if asked for a class other than the predicted one.
    """

    y: int
    x: int
    probability: float
    runner_up: PixelEvidence | None = None

    def __repr__(self) -> str:
        from segproto.model.words import pixel_words

        return pixel_words(self)

    def _repr_html_(self) -> str:
        from segproto.model.words import pixel_page

        return pixel_page(self)


def source_of(segmenter: Segmenter, prototype: int) -> PrototypeSource | None:
    """The training patch of a prototype, if known."""
    sources = segmenter.provenance.sources if segmenter.provenance is not None else ()
    return sources[prototype] if prototype < len(sources) else None


def list_evidence(
    segmenter: Segmenter, class_id: int, shares: Contributions, activations: Tensor, top: int
) -> dict[str, Any]:
    """The fields of :class:`Evidence` from the contributions of one place (N = 1) and its activations (P,)."""
    prototypes, offset = shares.prototypes[0], float(shares.offset[0])
    order = prototypes.abs().argsort(descending=True)[:top].tolist()
    bank = segmenter.head.bank
    listed = tuple(
        PrototypeEvidence(
            prototype=p,
            class_id=None if bank is None else int(bank.class_of[p]),
            scale=None if bank is None else int(bank.scale_of[p]),
            activation=float(activations[p]),
            contribution=float(prototypes[p]),
            source=source_of(segmenter, p),
        )
        for p in order
    )
    total = float(prototypes.double().sum())
    return {
        "class_id": class_id,
        "class_name": segmenter.classes.names[class_id],
        "logit": total + offset,
        "offset": offset,
        "prototypes": listed,
        "others": total - sum(p.contribution for p in listed),
        "pictures": pictures_of(segmenter, listed),
        "groups": None if shares.groups is None else _list_groups(segmenter.head, shares.groups[0], top),
    }


def pictures_of(segmenter: Segmenter, listed: Sequence[PrototypeEvidence]) -> dict[int, bytes]:
    """The stored pictures of single patches (those cut from whole images are left out)."""
    sources = {part.prototype: part.source for part in listed if part.source is not None and part.source.size is None}
    named = {prototype: source.patch for prototype, source in sources.items() if source.patch in segmenter.patches}
    return {prototype: segmenter.patches[patch] for prototype, patch in named.items() if patch is not None}


def _list_groups(head: Head, shares: Tensor, top: int) -> tuple[GroupEvidence, ...]:
    if head.grouping is None:
        return ()
    order = shares.abs().argsort(descending=True)[:top]
    weights = head.grouping.dense().detach()[order]
    classes = head.grouping.class_of_group[order].tolist()
    evidence = []
    for group, class_id, amount, row in zip(order.tolist(), classes, shares[order].tolist(), weights, strict=True):
        members = row.argsort(descending=True)[: int((row > 0).sum())]
        pairs = tuple(zip(members.tolist(), row[members].tolist(), strict=True))
        evidence.append(GroupEvidence(group, class_id, amount, pairs))
    return tuple(evidence)


def mix(shares: Contributions, index: Tensor, weight: Tensor) -> Contributions:
    """Contributions of M cells, mixed by (N, k) indices and weights into those of N pixels."""

    def mixed(values: Tensor) -> Tensor:
        out: Tensor = torch.nn.functional.embedding_bag(index, values, mode="sum", per_sample_weights=weight.to(values))
        return out

    groups = None if shares.groups is None else mixed(shares.groups)
    return Contributions(mixed(shares.prototypes), groups, mixed(shares.offset[:, None])[:, 0])
