"""Recipe of protoseg. Defaults are the published Cityscapes schedule, in batches."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from segproto.training.procedures.config import (
    DiversityConfig,
    LearningRates,
    OptimiseConfig,
    ProjectConfig,
    PruneConfig,
)
from segproto.training.recipe import Recipe


class ProtoSegModel(BaseModel):
    """Sizes of the head.

    Attributes:
        prototypes: prototypes a class.
        incorrect_strength: initial readout weight off a prototype's class; +1 on it.
        diversity: variant of the diversity loss; ``unshifted_labels`` reproduces the release.
    """

    model_config = ConfigDict(extra="forbid")

    prototypes: int = Field(10, ge=1)
    incorrect_strength: float = -0.5
    diversity: DiversityConfig = DiversityConfig()


class ProtoSegStages(BaseModel):
    """The stages in order; ``prune_finetune`` is the last-layer finetune after pruning."""

    model_config = ConfigDict(extra="forbid")

    warmup: OptimiseConfig = OptimiseConfig(
        steps=15000, accumulate=5, diversity=0.25, lr=LearningRates(neck=2.5e-4, prototypes=2.5e-4)
    )
    joint: OptimiseConfig = OptimiseConfig(
        steps=150000,
        accumulate=5,
        diversity=0.25,
        schedule="poly",
        lr=LearningRates(backbone=2.5e-5, neck=2.5e-4, prototypes=2.5e-4),
    )
    project: ProjectConfig = ProjectConfig(membership="any_pixel")
    finetune: OptimiseConfig = OptimiseConfig(
        steps=10000, accumulate=5, l1=1e-4, patience=100, lr=LearningRates(readout=1e-5)
    )
    prune: PruneConfig = PruneConfig()
    prune_finetune: OptimiseConfig = OptimiseConfig(
        steps=10000, accumulate=5, l1=1e-4, patience=100, lr=LearningRates(readout=1e-5)
    )


class ProtoSegRecipe(Recipe):
    """A protoseg run."""

    method: Literal["protoseg"] = "protoseg"
    model: ProtoSegModel = ProtoSegModel()
    stages: ProtoSegStages = ProtoSegStages()
