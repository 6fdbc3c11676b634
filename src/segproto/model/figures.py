"""Figures of a model that need no image."""

from __future__ import annotations

from typing import Any

from torch.nn import Parameter

from segproto.model.evidence import bank_of
from segproto.model.heads import GroupedHead, Head
from segproto.model.segmenter import Segmenter


def group_figures(head: Head) -> dict[str, Any]:
    """Prototypes, those that some group uses, and the mean number of members of a group; nothing without groups."""
    if not isinstance(head, GroupedHead):
        return {}
    return {
        "prototypes": head.bank.num_prototypes,
        "prototypes_used": int(head.grouping.used_prototypes().sum()),
        "group_average": float(head.grouping.group_average()),
    }


def number_figures(model: Segmenter) -> dict[str, int]:
    """How many numbers a model has: ``learnable`` by gradient, ``stored`` in other prototypes, ``total``.

    Stored ones grow with the classes. An auxiliary classifier, which no prediction runs, is left out.
    """
    training_only = [] if model.auxiliary is None else list(model.auxiliary.parameters())
    learnable = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in training_only)
    bank = bank_of(model.head)
    stored = 0 if bank is None or isinstance(bank.vectors, Parameter) else bank.vectors.numel()
    return {"learnable": learnable, "stored": stored, "total": learnable + stored}
