"""What methods of learned prototypes share: their settings, and their stages up to the finetuned readout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.training.procedures.config import (
    DiversityConfig,
    LinearWarmup,
    OptimiseConfig,
    ProjectConfig,
    PrototypeOptimise,
    SeedConfig,
    WarmupConfig,
)
from segproto.training.procedures.optimise import optimise_stage
from segproto.training.procedures.projection import projection_stage
from segproto.training.procedures.seeding import begin_prototypes, seeding_stages
from segproto.training.recipe import Recipe
from segproto.training.stage import Stage


class PrototypeModel(BaseModel):
    """Sizes of the head.

    Attributes:
        prototypes: prototypes per class, and per scale where there are several.
        incorrect_strength: initial readout weight off the class of a prototype (or group); +1 on it.
        diversity: variant of the diversity loss; ``unshifted_labels`` reproduces the release of ProtoSeg.
    """

    model_config = ConfigDict(extra="forbid")

    prototypes: int = Field(10, ge=1, le=10_000)
    incorrect_strength: float = -0.5
    diversity: DiversityConfig = DiversityConfig()


class PrototypeStages(BaseModel):
    """The first stages, in order; one without steps is skipped."""

    model_config = ConfigDict(extra="forbid")

    linear: LinearWarmup = WarmupConfig()
    seed: SeedConfig = SeedConfig()
    warmup: PrototypeOptimise = OptimiseConfig()
    joint: PrototypeOptimise = OptimiseConfig()
    project: ProjectConfig = ProjectConfig()
    finetune: PrototypeOptimise = OptimiseConfig()


class PrototypeRecipe(Recipe):
    """What recipes of learned prototypes share."""

    model: PrototypeModel = PrototypeModel()
    stages: PrototypeStages = PrototypeStages()

    @model_validator(mode="after")
    def _gain_of_centred_features(self) -> Self:
        linear, squash = self.stages.linear, self.encoder.squash
        if linear.gain is not None and linear.steps > 0 and squash != "sigmoid":
            raise ValueError(
                f"stages.linear.gain = {linear.gain}: is for features between 0 and 1, and encoder.squash is {squash}; "
                "set encoder.squash=sigmoid, or stages.linear.gain=null"
            )
        return self


def prototype_stages(
    config: PrototypeStages, model: PrototypeModel, make_bank: Callable[[Segmenter], PrototypeBank]
) -> list[Stage]:
    """The first stages, in order.

    Args:
        config: their settings.
        model: of the head.
        make_bank: the method's untrained bank for a model's encoder and classes.
    """
    variant = model.diversity

    def begin(segmenter: Segmenter) -> None:
        begin_prototypes(segmenter, make_bank, model.incorrect_strength)

    return [
        *seeding_stages(config.linear, config.seed, begin),
        optimise_stage("warmup", config.warmup, variant, begin, words="the new layers learn first"),
        optimise_stage("joint", config.joint, variant, begin, words="encoder and prototypes learn together"),
        projection_stage("project", config.project),
        optimise_stage("finetune", config.finetune, variant, words="the readout adapts to the projected prototypes"),
    ]
