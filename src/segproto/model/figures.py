"""Figures of a model that need no image."""

from __future__ import annotations

from torch.nn import Parameter

from segproto.model.segmenter import Segmenter


def number_figures(model: Segmenter) -> dict[str, int]:
    """How many numbers a model has: ``learnable`` by gradient, ``stored`` in other prototypes, ``total``.

    Stored ones grow with the classes. An auxiliary classifier, which no prediction runs, is left out.
    """
    training_only = [] if model.auxiliary is None else list(model.auxiliary.parameters())
    learnable = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in training_only)
    bank = model.head.bank
    stored = 0 if bank is None or isinstance(bank.vectors, Parameter) else bank.vectors.numel()
    return {"learnable": learnable, "stored": stored, "total": learnable + stored}
