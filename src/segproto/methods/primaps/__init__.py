"""Segmentation without labels: EM on mask proposals (PriMaPs-EM: Hahn et al., TMLR 2024)."""

from __future__ import annotations

from segproto.methods.primaps.build import build
from segproto.methods.primaps.config import PrimapsRecipe
from segproto.methods.primaps.convert import SOURCES
from segproto.methods.primaps.stages import stages
from segproto.training.method import Method

METHOD = Method(
    name="primaps",
    title="Categories found without labels, by EM on mask proposals (Hahn et al., TMLR 2024)",
    supervision="none",
    recipe=PrimapsRecipe,
    build=build,
    stages=stages,
    sources=SOURCES,
)
