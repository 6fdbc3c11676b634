"""Provenance that training makes untrue."""

from __future__ import annotations

from torch import nn

from segproto.model.segmenter import Segmenter
from segproto.training.stage import ParamGroup


def drop_stale_provenance(segmenter: Segmenter, bank_before: nn.Module | None, groups: list[ParamGroup]) -> None:
    """Forgets where prototypes came from if they are others now, or they or the encoder will change.

    Args:
        segmenter: as a stage is about to train it.
        bank_before: its prototypes before the stage restructured it.
        groups: what the stage trains.
    """
    bank = segmenter.head.bank
    fixed = {id(p) for p in segmenter.encoder.parameters()}
    if bank is not None:
        fixed |= {id(p) for p in bank.parameters()}
    if bank is not bank_before or any(id(p) in fixed for group in groups for p in group.params):
        segmenter.provenance, segmenter.patches = None, {}
