"""Segmentation by looking up labelled training patches (Balazevic et al., NeurIPS 2023): nothing is trained."""

from __future__ import annotations

from segproto.data.base import ClassTable
from segproto.encoders.build import build_encoder
from segproto.methods.memory.config import MemoryRecipe
from segproto.methods.memory.remember import remember_stage
from segproto.model.memory_head import MemoryHead, empty_memory
from segproto.model.segmenter import Segmenter
from segproto.training.method import Method
from segproto.training.stage import Stage


def build(recipe: MemoryRecipe, classes: ClassTable) -> Segmenter:
    """The frozen encoder with an empty memory."""
    encoder = build_encoder(recipe.encoder)
    bank = empty_memory(encoder.num_features, classes.num_classes)
    return Segmenter(encoder, MemoryHead(bank, recipe.model.neighbours, recipe.model.temperature), classes)


def stages(recipe: MemoryRecipe) -> list[Stage]:
    """One: look at every training image and remember."""
    return [remember_stage("remember", recipe.stages.remember, recipe.model)]


METHOD = Method(
    name="memory",
    title="Looks up labelled training patches in frozen features; nothing is trained (Balazevic et al., NeurIPS 2023)",
    supervision="pixel masks",
    recipe=MemoryRecipe,
    build=build,
    stages=stages,
    starts_from_any_encoder=True,
)
