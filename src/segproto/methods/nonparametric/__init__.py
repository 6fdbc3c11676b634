"""Segmentation by nearest, non-learnable prototypes (Zhou et al., CVPR 2022)."""

from __future__ import annotations

from segproto.methods.nonparametric.build import build
from segproto.methods.nonparametric.config import NonparametricRecipe
from segproto.methods.nonparametric.convert import SOURCES
from segproto.methods.nonparametric.stages import stages
from segproto.training.method import Method

METHOD = Method(
    name="nonparametric",
    title="The nearest of prototypes that no gradient moves, clustered while training (Zhou et al., CVPR 2022)",
    supervision="pixel masks",
    recipe=NonparametricRecipe,
    build=build,
    stages=stages,
    sources=SOURCES,
)
