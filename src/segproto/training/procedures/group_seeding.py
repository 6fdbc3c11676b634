"""Seeding of groups: they begin where the readout of the projected prototypes is, instead of at random."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segproto.data.subset import Subset, spread
from segproto.model.features import sample_features
from segproto.model.heads import GroupedHead, cell_activations
from segproto.model.segmenter import Segmenter
from segproto.prototypes.group_start import distilled_readout, fitted_readout, group_coactivating_
from segproto.training.figures import Figures
from segproto.training.procedures.config import GroupSeedConfig
from segproto.training.procedures.map_images import fold_samples
from segproto.training.procedures.require import require_head, require_prototypes
from segproto.training.stage import Procedure, StageContext

IMAGES = 64  # looked at, spread over the training images
CELLS = 1024  # drawn from each at most
NUMBERS = 2**24  # activations kept at most


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
    bank = require_prototypes(model, "group_seed")
    readout = model.head.unit_weights()
    assert readout is not None
    cells = drawn_cells(context)
    activations = cell_activations(bank, cells)
    begin(model)
    head = require_head(model, "group_seed", GroupedHead)
    group_coactivating_(head.grouping, activations, readout)
    groups = head.grouping(activations.T[None, :, :, None])[0, :, :, 0].T
    logits = activations @ readout.T
    head.readout.copy_(distilled_readout(groups, logits, fitted_readout(groups, logits)))
    fitted = groups @ head.readout.T
    agree = float((fitted.argmax(1) == logits.argmax(1)).float().mean())
    return {"cells": len(cells), "answers_kept": agree}


def drawn_cells(context: StageContext) -> Tensor:
    """Features (N, F) of cells drawn at random from training images spread over all of them."""
    model, dataset = context.segmenter, context.train_set
    bank = require_prototypes(model, "group_seed")
    chosen = Subset(dataset, spread(len(dataset), IMAGES))
    most = max(1, min(CELLS, NUMBERS // (bank.num_prototypes * len(chosen))))
    generator = torch.Generator().manual_seed(context.recipe.train.seed)
    drawn = []
    for index, sample in fold_samples(chosen, title="group_seed"):
        seen = sample_features(model, sample, chosen.indices[index], context.train_cache)
        features = model.head.cell_features(seen)[0].flatten(1)
        cells = torch.randperm(features.shape[1], generator=generator)[:most]
        drawn.append(features.T[cells.to(features.device)])
    return torch.cat(drawn)
