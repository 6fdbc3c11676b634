"""ScaleProtoSeg: multi-scale prototypes in sparse groups (Porta et al., WACV 2025)."""

from __future__ import annotations

from segproto.methods.scaleproto.build import build
from segproto.methods.scaleproto.config import ScaleProtoRecipe
from segproto.methods.scaleproto.convert import SOURCES
from segproto.methods.scaleproto.stages import stages
from segproto.training.method import Method

METHOD = Method(
    name="scaleproto",
    title="Multi-scale prototypes, projected onto training patches and sparsely grouped (Porta et al., WACV 2025)",
    supervision="pixel masks",
    recipe=ScaleProtoRecipe,
    build=build,
    stages=stages,
    sources=SOURCES,
)
