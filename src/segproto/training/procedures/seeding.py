"""Seeding: prototypes start as random training features of their class, in an encoder already warmed up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segproto.model.heads import LinearHead, PrototypeHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.training.procedures.config import OptimiseConfig, SeedConfig
from segproto.training.procedures.optimise import optimise_stage
from segproto.training.procedures.projection import search, searched_images
from segproto.training.stage import Procedure, Stage, StageContext


def seeding_stages(
    linear: OptimiseConfig, config: SeedConfig, prototypes: int, incorrect_strength: float
) -> list[Stage]:
    """What may come before the first published stage: a linear warm-up of the encoder, and seeded prototypes.

    Args:
        linear: the warm-up ``linear``, of encoder and a plain classifier; 0 steps leave it out.
        config: where the prototypes start.
        prototypes: prototypes a class and scale.
        incorrect_strength: initial readout weight off a prototype's class.
    """
    stages: list[Stage] = []
    if linear.steps > 0:
        stages.append(optimise_stage("linear", linear, begin=begin_linear))
    if config.start == "features":

        def run(context: StageContext) -> dict[str, Any]:
            begin_prototypes(context.segmenter, prototypes, incorrect_strength)
            return seed(context, config)

        stages.append(Procedure("seed", run))
    return stages


def begin_linear(model: Segmenter) -> None:
    """Puts a plain classifier in the place of the head."""
    head = LinearHead(model.encoder.num_features, model.classes.num_classes)
    model.head = head.to(next(model.parameters()).device)


def begin_prototypes(model: Segmenter, prototypes: int, incorrect_strength: float) -> None:
    """Puts a regular bank with its linear readout in the place of a plain classifier (a warm-up's, a black box's)."""
    if not isinstance(model.head, LinearHead):
        return
    scales = model.encoder.scale_dims
    bank = PrototypeBank.regular(model.classes.num_classes, prototypes, len(scales), scales[0])
    model.head = PrototypeHead(bank, incorrect_strength).to(model.head.weight.device)


@torch.no_grad()
def seed(context: StageContext, config: SeedConfig) -> dict[str, Any]:
    """Replaces each prototype by the feature of a cell drawn evenly from all cells of its class.

    A class without cells keeps its uniform prototypes; the projection is what refuses it.
    """
    head = context.segmenter.head
    assert isinstance(head, PrototypeHead)
    bank = head.bank
    dataset, cache = searched_images(context, config.images)
    generator = torch.Generator(bank.vectors.device).manual_seed(context.recipe.train.seed + context.fabric.global_rank)

    def lots(features: Tensor) -> Tensor:
        """The smallest of independent random numbers falls on each cell alike, over images and processes."""
        grid = features.shape[-2:]
        return torch.rand(bank.num_prototypes, *grid, generator=generator, device=features.device)

    drawn = search(context, dataset, cache, "nearest_label", lots)
    found = torch.isfinite(drawn.distance)
    bank.vectors[found] = drawn.feature[found]
    return {"prototypes": bank.num_prototypes, "seeded": int(found.sum())}
