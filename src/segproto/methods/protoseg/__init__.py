"""ProtoSeg: single-scale prototypes, projected and pruned (Sacha et al., WACV 2023)."""

from __future__ import annotations

from segproto.methods.protoseg.build import build
from segproto.methods.protoseg.config import ProtoSegRecipe
from segproto.methods.protoseg.convert import SOURCES
from segproto.methods.protoseg.stages import stages
from segproto.training.method import Method

METHOD = Method(
    name="protoseg",
    title="Single-scale prototypes, projected onto training patches and pruned (Sacha et al., WACV 2023)",
    supervision="pixel masks",
    recipe=ProtoSegRecipe,
    build=build,
    stages=stages,
    sources=SOURCES,
)
