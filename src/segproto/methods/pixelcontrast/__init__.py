"""From image-level labels to masks, by pixel-to-prototype contrast (Du et al., CVPR 2022)."""

from __future__ import annotations

from segproto.methods.pixelcontrast.build import build
from segproto.methods.pixelcontrast.config import PixelcontrastRecipe
from segproto.methods.pixelcontrast.convert import SOURCES
from segproto.methods.pixelcontrast.stages import stages
from segproto.training.method import Method

METHOD = Method(
    name="pixelcontrast",
    title="From image-level labels to masks, by pixel-to-prototype contrast (Du et al., CVPR 2022)",
    supervision="image-level labels",
    recipe=PixelcontrastRecipe,
    build=build,
    stages=stages,
    sources=SOURCES,
)
