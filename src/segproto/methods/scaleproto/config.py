"""Recipe of scaleproto. Defaults are the published Cityscapes schedule, in batches."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from segproto.training.procedures.config import (
    DiversityConfig,
    LearningRates,
    OptimiseConfig,
    ProjectConfig,
    ThresholdConfig,
)
from segproto.training.recipe import Recipe


class ScaleProtoModel(BaseModel):
    """Sizes of the head.

    Attributes:
        prototypes: prototypes a class and scale.
        groups: groups a class.
        incorrect_strength: initial readout weight off a unit's class; +1 on it.
        diversity: variant of the diversity loss.
    """

    model_config = ConfigDict(extra="forbid")

    prototypes: int = Field(3, ge=1)
    groups: int = Field(3, ge=1)
    incorrect_strength: float = -0.5
    diversity: DiversityConfig = DiversityConfig()


class ScaleProtoStages(BaseModel):
    """The stages in order. The paper calls ``finetune`` unnecessary; 0 steps skip it."""

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
    project: ProjectConfig = ProjectConfig()
    finetune: OptimiseConfig = OptimiseConfig(steps=0, accumulate=5, l1=1e-4, lr=LearningRates(readout=1e-5))
    group_warmup: OptimiseConfig = OptimiseConfig(
        steps=10000, accumulate=5, entropy=0.05, l1=1e-3, lr=LearningRates(groups=2.5e-4)
    )
    group_joint: OptimiseConfig = OptimiseConfig(
        steps=150000,
        accumulate=5,
        entropy=0.05,
        l1=1e-3,
        schedule="poly",
        lr=LearningRates(groups=2.5e-4, readout=2.5e-4),
    )
    threshold: ThresholdConfig = ThresholdConfig()


class ScaleProtoRecipe(Recipe):
    """A scaleproto run."""

    method: Literal["scaleproto"] = "scaleproto"
    model: ScaleProtoModel = ScaleProtoModel()
    stages: ScaleProtoStages = ScaleProtoStages()
