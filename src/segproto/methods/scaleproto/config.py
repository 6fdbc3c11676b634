"""Recipe of scaleproto. The published schedules are in ``recipes/``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from segproto.training.procedures.config import (
    DiversityConfig,
    LinearOptimise,
    OptimiseConfig,
    ProjectConfig,
    PrototypeOptimise,
    SeedConfig,
    ThresholdConfig,
)
from segproto.training.procedures.forgetting import ForgetConfig
from segproto.training.recipe import Recipe


class ScaleProtoModel(BaseModel):
    """Sizes of the head.

    Attributes:
        prototypes: prototypes per class and scale.
        groups: groups per class.
        incorrect_strength: initial readout weight off a unit's class; +1 on it.
        diversity: variant of the diversity loss.
    """

    model_config = ConfigDict(extra="forbid")

    prototypes: int = Field(3, ge=1, le=10_000)
    groups: int = Field(3, ge=1, le=10_000)
    incorrect_strength: float = -0.5
    diversity: DiversityConfig = DiversityConfig()


class ScaleProtoStages(BaseModel):
    """The stages in order; one without steps is skipped. The paper calls ``finetune`` unnecessary.

    ``forget`` is what ``segproto edit --forget`` sets.
    """

    model_config = ConfigDict(extra="forbid")

    linear: LinearOptimise = OptimiseConfig()
    seed: SeedConfig = SeedConfig()
    warmup: PrototypeOptimise = OptimiseConfig()
    joint: PrototypeOptimise = OptimiseConfig()
    project: ProjectConfig = ProjectConfig()
    finetune: PrototypeOptimise = OptimiseConfig()
    group_warmup: OptimiseConfig = OptimiseConfig()
    group_joint: OptimiseConfig = OptimiseConfig()
    threshold: ThresholdConfig = ThresholdConfig()
    forget: ForgetConfig = ForgetConfig()


class ScaleProtoRecipe(Recipe):
    """A scaleproto run."""

    method: Literal["scaleproto"] = "scaleproto"
    model: ScaleProtoModel = ScaleProtoModel()
    stages: ScaleProtoStages = ScaleProtoStages()
