"""Seeding of groups: they begin where the readout of the projected prototypes is, instead of at random."""

from __future__ import annotations

from collections.abc import Callable

import torch

from segproto.model.heads import GroupedHead, cell_activations
from segproto.model.segmenter import Segmenter
from segproto.prototypes.group_start import group_coactivating_
from segproto.prototypes.readout import distilled_readout, fitted_readout
from segproto.training.figures import Figures
from segproto.training.procedures.config import GroupSeedConfig
from segproto.training.procedures.refit import answers_kept, drawn_cells, group_activations
from segproto.training.procedures.require import require_head, require_prototypes
from segproto.training.stage import Procedure, StageContext


def group_seeding_stages(config: GroupSeedConfig, begin: Callable[[Segmenter], None]) -> list[Procedure]:
    """The stage ``group_seed``, if groups are not to begin at random.

    Args:
        config: where groups begin.
        begin: gives the model groups.
    """
    if config.start == "random":
        return []
    words = "groups begin as prototypes that fire together, their readout as that of the prototypes"
    return [Procedure("group_seed", lambda context: seed_groups(context, begin), words)]


@torch.no_grad()
def seed_groups(context: StageContext, begin: Callable[[Segmenter], None]) -> Figures:
    """Gives ``context.segmenter`` groups that answer as its readout of prototypes does, as nearly as groups can.

    Every process looks at the same few images, so that all begin with the same groups.
    """
    model = context.segmenter
    bank, readout = require_prototypes(model, "group_seed"), model.head.unit_weights()
    assert readout is not None
    activations = cell_activations(bank, drawn_cells(context, "group_seed", bank.num_prototypes))
    logits = activations @ readout.T
    begin(model)
    head = require_head(model, "group_seed", GroupedHead)
    group_coactivating_(head.grouping, activations, readout)
    groups = group_activations(head.grouping, activations)
    head.readout.copy_(distilled_readout(groups, logits, fitted_readout(groups, logits)))
    return {"cells": len(logits), "answers_kept": answers_kept(groups @ head.readout.T, logits)}
