"""A readout of groups fitted to what the model answers, at cells of training images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segproto.data.subset import Subset, spread
from segproto.model.features import sample_features
from segproto.model.heads import GroupedHead, cell_activations
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.group_start import distilled_readout
from segproto.training.figures import Figures
from segproto.training.procedures.map_images import fold_samples
from segproto.training.procedures.require import require_head
from segproto.training.stage import StageContext

IMAGES = 64  # looked at, spread over the training images
CELLS = 1024  # drawn from each at most
NUMBERS = 2**24  # activations kept at most


@torch.no_grad()
def refitted(context: StageContext, stage: str, change: Callable[[StageContext], Figures]) -> Figures:
    """Changes the groups' weights, then fits their readout to the class probabilities before.

    Every process looks at the same few images, so that all have the same readout.

    Args:
        context: whose model has groups.
        stage: its name, for the progress.
        change: of the groups' weights in place.
    """
    head = require_head(context.segmenter, stage, GroupedHead)
    activations = drawn_activations(context, stage, head.bank)
    logits = group_activations(head, activations) @ head.readout.T
    figures = change(context)
    groups = group_activations(head, activations)
    head.readout.copy_(distilled_readout(groups, logits, head.readout))
    return {**figures, "answers_kept": answers_kept(groups @ head.readout.T, logits)}


def group_activations(head: GroupedHead, activations: Tensor) -> Tensor:
    """Activations (N, U) of the groups, from those of the prototypes (N, P)."""
    groups: Tensor = head.grouping(activations.T[None, :, :, None])[0, :, :, 0].T
    return groups


def answers_kept(logits: Tensor, before: Tensor) -> float:
    """The share of cells whose largest logit is of the same class as before; both (N, C)."""
    return float((logits.argmax(1) == before.argmax(1)).float().mean())


def drawn_activations(context: StageContext, stage: str, bank: PrototypeBank) -> Tensor:
    """Activations (N, P) of the prototypes at cells drawn at random from training images spread over all of them."""
    model, dataset = context.segmenter, context.train_set
    chosen = Subset(dataset, spread(len(dataset), IMAGES))
    most = max(1, min(CELLS, NUMBERS // (bank.num_prototypes * len(chosen))))
    generator = torch.Generator().manual_seed(context.recipe.train.seed)
    drawn = []
    for index, sample in fold_samples(chosen, title=stage):
        seen = sample_features(model, sample, chosen.indices[index], context.train_cache)
        features = model.head.cell_features(seen)[0].flatten(1)
        cells = torch.randperm(features.shape[1], generator=generator)[:most]
        drawn.append(features.T[cells.to(features.device)])
    return cell_activations(bank, torch.cat(drawn))
