"""Seeding: prototypes start as random training features of their class, in an encoder already warmed up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from segproto.errors import ConfigError
from segproto.model.heads import CentredHead, Head, LinearHead, PrototypeHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.training.figures import Figures
from segproto.training.procedures.config import OptimiseConfig, SeedConfig, WarmupConfig
from segproto.training.procedures.optimise import optimise_stage
from segproto.training.procedures.projection import search, searched_images
from segproto.training.procedures.require import require_prototypes
from segproto.training.stage import Optimise, Procedure, Stage, StageContext

SEEDED = "prototypes begin as training features of their class"


def seeding_stages(linear: WarmupConfig, config: SeedConfig, begin: Callable[[Segmenter], None]) -> list[Stage]:
    """What may come before the first published stage: a linear warm-up of the encoder, and seeded prototypes.

    Args:
        linear: the warm-up ``linear``, of encoder and a plain classifier; 0 steps leave it out.
        config: where the prototypes start.
        begin: gives the model the method's head of prototypes, see :func:`begin_prototypes`.
    """
    stages: list[Stage] = []
    if linear.steps > 0:
        stages.append(linear_stage(linear, linear.gain))
    if config.start == "features":

        def run(context: StageContext) -> Figures:
            begin(context.segmenter)
            return seed(context, config)

        stages.append(Procedure("seed", run, SEEDED))
    return stages


def linear_stage(config: OptimiseConfig, gain: float | None = None) -> Optimise:
    """The warm-up ``linear``: encoder and a plain classifier, which reads centred features if there is a ``gain``."""

    def begin(model: Segmenter) -> None:
        begin_linear(model, gain)

    stage = optimise_stage("linear", config, begin=begin, words="a plain classifier warms the encoder up")
    return stage if gain is None else replace(stage, end=end_centred)


def begin_linear(model: Segmenter, gain: float | None) -> None:
    """Puts a plain classifier in the place of the head."""
    sizes = model.encoder.num_features, model.classes.num_classes
    head: Head = LinearHead(*sizes) if gain is None else CentredHead(*sizes, gain)
    model.head = head.to(next(model.parameters()).device)


def end_centred(model: Segmenter) -> None:
    """Nothing after the warm-up need know how its classifier read the features."""
    assert isinstance(model.head, CentredHead)
    model.head = model.head.plain()


def begin_prototypes(
    model: Segmenter, make_bank: Callable[[Segmenter], PrototypeBank], incorrect_strength: float
) -> None:
    """Puts the method's bank with a linear readout in the place of a plain classifier (a warm-up's, a black box's).

    A grouped head gives its groups up and keeps its prototypes; a prototype head stays as it is.

    Args:
        model: whose head is replaced.
        make_bank: the method's untrained bank for the model's encoder and classes.
        incorrect_strength: initial readout weight off a prototype's class.

    Raises:
        ConfigError: any other head.
    """
    head, bank = model.head, model.head.bank
    if isinstance(head, LinearHead | CentredHead):
        bank = make_bank(model)
    elif isinstance(bank, PrototypeBank) and head.grouping is None:
        return
    if not isinstance(bank, PrototypeBank):
        raise ConfigError(
            f"train.start: prototypes cannot start from a {head.kind} head; expected a linear (black box), prototype "
            "or grouped model"
        )
    model.head = PrototypeHead(bank, incorrect_strength).to(next(head.parameters()).device)


@torch.no_grad()
def seed(context: StageContext, config: SeedConfig) -> Figures:
    """Replaces each prototype by the feature of a cell drawn evenly from all cells of its class.

    A class without cells keeps its uniform prototypes; the projection is what refuses it.
    """
    bank = require_prototypes(context.segmenter, "seed")
    dataset, cache = searched_images(context, config.images)
    # On the host: a GPU would draw other prototypes from the same seed than a CPU.
    generator = torch.Generator().manual_seed(context.recipe.train.seed + context.fabric.global_rank)

    def lots(features: Tensor) -> Tensor:
        """The smallest of independent random numbers falls on each cell alike, over images and processes."""
        return torch.rand(bank.num_prototypes, *features.shape[-2:], generator=generator).to(features.device)

    drawn = search(context, dataset, cache, "nearest_label", lots)
    has_cell = torch.isfinite(drawn.distance)
    bank.vectors[has_cell] = drawn.feature[has_cell]
    context.segmenter.provenance, context.segmenter.patches = None, {}
    return {"prototypes": bank.num_prototypes, "seeded": int(has_cell.sum())}
