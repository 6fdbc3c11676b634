"""The stages of pixelcontrast: CAM network, maps, scores, affinities, masks, segmenter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from segproto.methods.pixelcontrast.build import begin_segmenter
from segproto.methods.pixelcontrast.config import PixelcontrastRecipe
from segproto.methods.pixelcontrast.contrast import affinity_stage, contrast_stage
from segproto.methods.pixelcontrast.infer import make_cams, make_masks, make_scores
from segproto.methods.pixelcontrast.products import MASKS
from segproto.methods.pixelcontrast.steps import keep_steps
from segproto.methods.pixelcontrast.tagged import with_masks
from segproto.model.segmenter import Segmenter
from segproto.model.tap_head import AffinityHead
from segproto.training.procedures.optimise import optimise_stage
from segproto.training.recipe import Recipe
from segproto.training.stage import Optimise, Procedure, Stage, StageContext


def stages(recipe: Recipe) -> list[Stage]:
    """All stages in order; the runner drops those with 0 steps and those ``train.stages`` leaves out."""
    assert isinstance(recipe, PixelcontrastRecipe)
    s = recipe.stages
    found: list[Stage] = [contrast_stage(recipe), Procedure("cams", lambda context: make_cams(context, recipe))]
    if s.affinity.steps:
        found.append(Procedure("crf", lambda context: make_scores(context, s.crf)))
        found.append(affinity_stage(recipe))
    found.append(Procedure("masks", lambda context: masks_of_walk(context, recipe)))
    found.append(segment_stage(recipe))
    return found


def masks_of_walk(context: StageContext, recipe: PixelcontrastRecipe) -> dict[str, Any]:
    """Masks, and the steps to those of chosen images; a network of affinities gives way to the CAM network again."""
    figures = {**make_masks(context, recipe), **keep_steps(context, recipe)}
    maps = context.out.parent / "cams" / "model"
    if isinstance(context.segmenter.head, AffinityHead) and maps.is_dir():
        earlier = Segmenter.load(maps)
        context.segmenter.encoder, context.segmenter.head = earlier.encoder, earlier.head
    return figures


def segment_stage(recipe: PixelcontrastRecipe) -> Optimise:
    """A plain segmenter of its own, trained on the masks."""
    plain = optimise_stage("segment", recipe.stages.segment, begin=lambda model: begin_segmenter(model, recipe))
    return replace(plain, dataset=lambda dataset, out: with_masks(dataset, out / MASKS / "labels"))
