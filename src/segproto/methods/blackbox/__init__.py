"""The black box: a plain 1x1 classifier on the same encoder, the upper bound of the others."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from segproto.data.base import ClassTable
from segproto.encoders.build import build_encoder
from segproto.model.heads import LinearHead
from segproto.model.segmenter import Segmenter
from segproto.training.method import Method
from segproto.training.procedures.config import LinearOptimise, OptimiseConfig
from segproto.training.procedures.optimise import optimise_stage
from segproto.training.recipe import Recipe
from segproto.training.stage import Stage


class BlackboxStages(BaseModel):
    """Warm-up of neck and classifier, then all together; a stage without steps is skipped."""

    model_config = ConfigDict(extra="forbid")

    warmup: LinearOptimise = OptimiseConfig()
    joint: LinearOptimise = OptimiseConfig()


class BlackboxRecipe(Recipe):
    """A black-box run."""

    method: Literal["blackbox"] = "blackbox"
    stages: BlackboxStages = BlackboxStages()


def build(recipe: BlackboxRecipe, classes: ClassTable) -> Segmenter:
    """The encoder with a 1x1 classifier."""
    encoder = build_encoder(recipe.encoder)
    return Segmenter(encoder, LinearHead(encoder.num_features, classes.num_classes), classes)


def stages(recipe: BlackboxRecipe) -> list[Stage]:
    """All stages in order; the runner drops those with 0 steps and those ``train.stages`` leaves out."""
    s = recipe.stages
    return [
        optimise_stage("warmup", s.warmup, words="the new layers learn first"),
        optimise_stage("joint", s.joint, words="encoder and classifier learn together"),
    ]


METHOD = Method(
    name="blackbox",
    title="A plain 1x1 classifier on the same encoder: the upper bound the others are compared with",
    supervision="pixel masks",
    recipe=BlackboxRecipe,
    build=build,
    stages=stages,
)
