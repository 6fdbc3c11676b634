"""Recipe of protoseg. The published schedules are in ``recipes/``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from segproto.training.procedures.config import (
    DiversityConfig,
    LinearOptimise,
    OptimiseConfig,
    ProjectConfig,
    PrototypeOptimise,
    PruneConfig,
    SeedConfig,
)
from segproto.training.procedures.forgetting import ForgetConfig
from segproto.training.recipe import Recipe


class ProtoSegModel(BaseModel):
    """Sizes of the head.

    Attributes:
        prototypes: prototypes per class.
        incorrect_strength: initial readout weight off a prototype's class; +1 on it.
        diversity: variant of the diversity loss; ``unshifted_labels`` reproduces the release.
    """

    model_config = ConfigDict(extra="forbid")

    prototypes: int = Field(10, ge=1, le=10_000)
    incorrect_strength: float = -0.5
    diversity: DiversityConfig = DiversityConfig()


class ProtoSegProject(ProjectConfig):
    """Projection; a cell belongs to every class a pixel of its patch has, as in the ProtoSeg release."""

    membership: Literal["nearest_label", "any_pixel"] = "any_pixel"


class ProtoSegStages(BaseModel):
    """The stages in order; one without steps is skipped. ``prune_finetune`` finetunes the readout after pruning.

    ``forget`` is what ``segproto edit --forget`` sets.
    """

    model_config = ConfigDict(extra="forbid")

    linear: LinearOptimise = OptimiseConfig()
    seed: SeedConfig = SeedConfig()
    warmup: PrototypeOptimise = OptimiseConfig()
    joint: PrototypeOptimise = OptimiseConfig()
    project: ProtoSegProject = ProtoSegProject()
    finetune: PrototypeOptimise = OptimiseConfig()
    prune: PruneConfig = PruneConfig()
    prune_finetune: PrototypeOptimise = OptimiseConfig()
    forget: ForgetConfig = ForgetConfig()


class ProtoSegRecipe(Recipe):
    """A protoseg run."""

    method: Literal["protoseg"] = "protoseg"
    model: ProtoSegModel = ProtoSegModel()
    stages: ProtoSegStages = ProtoSegStages()
