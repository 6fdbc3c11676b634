"""A readout fitted to what the model answered before, at cells of training images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segproto.data.subset import Subset, spread
from segproto.model.features import sample_features
from segproto.model.heads import Head, cell_activations
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.grouping import Grouping
from segproto.prototypes.readout import distilled_readout
from segproto.training.figures import Figures
from segproto.training.procedures.map_images import fold_samples
from segproto.training.stage import StageContext

IMAGES = 64  # looked at, spread over the training images
CELLS = 1024  # drawn from each at most
NUMBERS = 2**24  # activations kept at most


@torch.no_grad()
def refitted(context: StageContext, stage: str, change: Callable[[StageContext], Figures]) -> Figures:
    """Changes prototypes or groups, then fits their readout to the class probabilities before.

    Every process looks at the same few images, so that all have the same readout.

    Args:
        context: whose model has prototypes, perhaps in groups.
        stage: its name, for the progress.
        change: of the head, not of the encoder.
    """
    head, bank = context.segmenter.head, context.segmenter.head.bank
    if not isinstance(bank, PrototypeBank) or [w.ndim for w in head.parts().readout] != [2]:
        return change(context)  # which says what it needs; a head of your own may have no linear readout to fit
    cells = drawn_cells(context, stage, bank.num_prototypes)
    logits = unit_activations(head, cells) @ only_readout(head).T
    figures = change(context)
    units, readout = unit_activations(head, cells), only_readout(head)
    readout.copy_(distilled_readout(units, logits, readout))
    return {**figures, "answers_kept": answers_kept(units @ readout.T, logits)}


def only_readout(head: Head) -> Tensor:
    """(C, U), weight of each group, without groups of each prototype, in each class's logit."""
    (readout,) = head.parts().readout
    return readout


def unit_activations(head: Head, cells: Tensor) -> Tensor:
    """Activations (N, U) of what the readout reads, groups or prototypes, at cells with features (N, F)."""
    assert isinstance(head.bank, PrototypeBank)
    activations = cell_activations(head.bank, cells)
    return activations if head.grouping is None else group_activations(head.grouping, activations)


def group_activations(grouping: Grouping, activations: Tensor) -> Tensor:
    """Activations (N, U) of the groups, from those of the prototypes (N, P)."""
    groups: Tensor = grouping(activations.T[None, :, :, None])[0, :, :, 0].T
    return groups


def answers_kept(logits: Tensor, before: Tensor) -> float:
    """The share of cells whose largest logit is of the same class as before; both (N, C)."""
    return float((logits.argmax(1) == before.argmax(1)).float().mean())


def drawn_cells(context: StageContext, stage: str, prototypes: int) -> Tensor:
    """Features (N, F) of cells drawn at random from training images spread over all of them."""
    model, dataset = context.segmenter, context.train_set
    chosen = Subset(dataset, spread(len(dataset), IMAGES))
    most = max(1, min(CELLS, NUMBERS // (prototypes * len(chosen))))
    generator = torch.Generator().manual_seed(context.recipe.train.seed)
    drawn = []
    for index, sample in fold_samples(chosen, title=stage):
        seen = sample_features(model, sample, chosen.indices[index], context.train_cache)
        features = model.head.cell_features(seen)[0].flatten(1)
        cells = torch.randperm(features.shape[1], generator=generator)[:most]
        drawn.append(features.T[cells.to(features.device)])
    return torch.cat(drawn)
