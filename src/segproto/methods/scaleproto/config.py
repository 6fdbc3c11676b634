"""Recipe of scaleproto. The published schedules are in ``recipes/``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from segproto.training.procedures.config import GroupSeedConfig, OptimiseConfig, ThresholdConfig
from segproto.training.procedures.forgetting import ForgetConfig
from segproto.training.procedures.prototypes import PrototypeModel, PrototypeRecipe, PrototypeStages


class ScaleProtoModel(PrototypeModel):
    """Sizes of the head: prototypes per class and scale, and ``groups`` per class."""

    prototypes: int = Field(3, ge=1, le=10_000)
    groups: int = Field(3, ge=1, le=10_000)


class ScaleProtoStages(PrototypeStages):
    """The stages in order; one without steps is skipped. The paper calls ``finetune`` unnecessary.

    ``forget`` is what ``segproto edit --forget`` sets.
    """

    group_seed: GroupSeedConfig = GroupSeedConfig()
    group_warmup: OptimiseConfig = OptimiseConfig()
    group_joint: OptimiseConfig = OptimiseConfig()
    threshold: ThresholdConfig = ThresholdConfig()
    forget: ForgetConfig = ForgetConfig()


class ScaleProtoRecipe(PrototypeRecipe):
    """A scaleproto run."""

    method: Literal["scaleproto"] = "scaleproto"
    model: ScaleProtoModel = ScaleProtoModel()
    stages: ScaleProtoStages = ScaleProtoStages()
