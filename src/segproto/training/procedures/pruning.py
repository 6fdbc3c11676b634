"""Pruning (Sacha et al. 2023, section 3.3) and thresholding (Porta et al. 2025, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segproto.data.base import Sample
from segproto.errors import DataError
from segproto.model.edit import keep_prototypes
from segproto.model.features import sample_features
from segproto.model.patches import covered_mask
from segproto.prototypes.labels import resize_labels
from segproto.prototypes.nearest import RunningTopK
from segproto.training.figures import Figures
from segproto.training.procedures.config import PruneConfig, ThresholdConfig
from segproto.training.procedures.map_images import fold_samples
from segproto.training.procedures.projection import (
    classes_without_prototypes,
    of_others,
    searched_images,
)
from segproto.training.procedures.refit import refitted
from segproto.training.procedures.require import require_groups, require_prototypes
from segproto.training.stage import Procedure, StageContext


def pruning_stage(name: str, config: PruneConfig) -> Procedure:
    """Removes prototypes whose nearest training patches mostly belong to other classes."""
    words = "prototypes with mixed neighbours are dropped"
    return perhaps_refitted(name, lambda context: prune(context, config), words, config.refit)


def perhaps_refitted(name: str, run: Callable[[StageContext], Figures], words: str, refit: bool) -> Procedure:
    """A stage that takes something away; with ``refit`` the readout makes up for it, as far as it can."""
    if refit:
        return Procedure(name, lambda context: refitted(context, name, run), f"{words}, the readout makes up for them")
    return Procedure(name, run, words)


@torch.no_grad()
def prune(context: StageContext, config: PruneConfig) -> Figures:
    """Prunes ``context.segmenter`` in place; returns how many prototypes were there and stayed."""
    model, fabric = context.segmenter, context.fabric
    bank = require_prototypes(model, "prune")
    dataset, cache = searched_images(context, config.images)
    top = RunningTopK(bank.class_of, config.k)
    for index, sample in fold_samples(dataset, rank=fabric.global_rank, world=fabric.world_size, title="prune"):
        features = sample_features(model, sample, index, cache)
        update_top(context, top, features, sample, index)
    for state in of_others(context, top.state_dict()):
        top.merge(state)
    keep = top.keep_mask(config.threshold).nonzero()[:, 0]
    start = bank.num_prototypes
    if len(keep) == 0:
        raise DataError(
            f"stages.prune.threshold = {config.threshold}: none of {start} prototypes has so many of its {config.k} "
            "nearest patches in its class; lower stages.prune.threshold, or raise stages.prune.k or train for longer"
        )
    keep_prototypes(model, keep)
    empty = classes_without_prototypes(model, require_prototypes(model, "prune"))
    return {"prototypes_start": start, "prototypes": len(keep), "classes_without_prototypes": empty}


def update_top(context: StageContext, top: RunningTopK, features: Tensor, sample: Sample, index: int) -> None:
    """One candidate per prototype from this image: the nearest cell that is not void.

    See docs/specs/scaleproto.md#pruning, steps 1 and 2.
    """
    head = context.segmenter.head
    mask = covered_mask(context.segmenter, sample.mask.to(features.device))
    grid_labels = resize_labels(mask[None], (features.shape[-2], features.shape[-1]))[0]
    top.update(head.distances(head.cell_features(features))[0], grid_labels, mask, index)


def threshold_stage(name: str, config: ThresholdConfig) -> Procedure:
    """Sets small group weights to zero, without renormalising (docs/specs/scaleproto.md#thresholding-groups)."""
    words = "small group weights become zero"
    return perhaps_refitted(name, lambda context: threshold(context, config), words, config.refit)


@torch.no_grad()
def threshold(context: StageContext, config: ThresholdConfig) -> Figures:
    """Thresholds the groups of ``context.segmenter`` in place."""
    require_groups(context.segmenter, "threshold").threshold_(config.tau)
    return {"tau": config.tau}
