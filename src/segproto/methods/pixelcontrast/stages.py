"""The stages of pixelcontrast: CAM network, maps, scores, affinities, masks, segmenter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from segproto.errors import SegprotoError, WeightsError
from segproto.files.documents import read_checked
from segproto.methods.pixelcontrast.backgrounds import Cut
from segproto.methods.pixelcontrast.build import AFFINITIES, begin_segmenter
from segproto.methods.pixelcontrast.config import MasksConfig, PixelcontrastRecipe
from segproto.methods.pixelcontrast.contrast import affinity_stage, contrast_stage
from segproto.methods.pixelcontrast.infer import make_cams, make_scores
from segproto.methods.pixelcontrast.masks import MaskRule, make_masks
from segproto.methods.pixelcontrast.products import MASKS
from segproto.methods.pixelcontrast.steps import keep_steps
from segproto.methods.pixelcontrast.tagged import with_masks
from segproto.model.artefact import find_model
from segproto.model.cam_head import CamHead
from segproto.model.description import Description
from segproto.model.segmenter import Segmenter
from segproto.model.tap_head import AffinityHead
from segproto.training.figures import Figures
from segproto.training.procedures.optimise import optimise_stage
from segproto.training.stage import Optimise, Procedure, Stage, StageContext


def stages(recipe: PixelcontrastRecipe) -> list[Stage]:
    """All stages in order; the runner drops those with 0 steps and those ``train.stages`` leaves out."""
    if recipe.walks_elsewhere and recipe.train.start is not None:
        require_affinities(recipe.train.start)
    s = recipe.stages
    words = "activation maps of every training image" if s.cams.given is None else "published activation maps are read"
    chosen: list[Stage] = [
        contrast_stage(recipe),
        Procedure("cams", lambda context: make_cams(context, s.cams, recipe.tags), words),
    ]
    if s.affinity.steps:
        words = (
            "a CRF finds the pixels that surely are of a class"
            if s.crf.given_low is None
            else "published scores are read"
        )
        chosen.append(Procedure("crf", lambda context: make_scores(context, s.crf), words))
        chosen.append(affinity_stage(recipe))
    words = words_of_masks(s.masks)
    chosen.append(Procedure("masks", lambda context: masks_of_walk(context, recipe), words, leaves_masks=True))
    chosen.append(segment_stage(recipe))
    return chosen


def words_of_masks(config: MasksConfig) -> str:
    """How the masks are made of the maps, for reports."""
    if config.given is not None:
        return "published masks are read"
    if config.walk:
        by = "a random walk over the affinities" + ("" if config.crf is None else " and a CRF")
    else:
        by = "their best class" if config.crf is None else "a CRF"
    return f"the maps become masks, by {by}"


def require_affinities(start: Path) -> None:
    """Refuses a model to walk over whose affinities nobody trained; one that is not there any more is let pass.

    Raises:
        WeightsError: naming what was trained last.
    """
    try:
        value = read_checked(find_model(start) / "model.json", Description)
    except SegprotoError:
        return  # a resumed run needs it no more, and loading tells what is wrong with it
    card, kind = value.card, value.head.get("kind")
    stage = card.get("stage")
    before = stage in ("affinity", "masks")  # models of versions that did not note it
    if kind == AffinityHead.kind or (kind == CamHead.kind and card.get(AFFINITIES, before)):
        return
    raise WeightsError(
        f"train.start = {start}: no affinities were trained in that model (its last stage: {stage}), there is nothing "
        "to walk over; start from stages/affinity/model, or set stages.affinity.steps or stages.masks.walk=false"
    )


def masks_of_walk(context: StageContext, recipe: PixelcontrastRecipe) -> Figures:
    """Masks, and the steps to those of chosen images; a network of affinities gives way to the CAM network again."""
    context.segmenter.card.setdefault(AFFINITIES, recipe.walks_elsewhere)
    config, cut = recipe.stages.masks, Cut.of(context.run).otsu_threshold
    rule = MaskRule.of(recipe.stages, cut)
    figures = make_masks(context, rule, config.given)
    if config.given is None:
        figures |= keep_steps(context, rule, config.shown)
        if config.alpha == "auto" and config.background is None:
            words = f"{words_of_masks(config)}; the background begins where Otsu's rule cuts the maps, at {cut:.2f}"
            figures |= {"words": f"{words}: no mask was looked at", "alpha": rule.alpha}
    maps = context.run / "stages" / "cams" / "model"
    if isinstance(context.segmenter.head, AffinityHead) and maps.is_dir():
        earlier = Segmenter.load(maps)
        context.segmenter.encoder, context.segmenter.head = earlier.encoder, earlier.head
    return figures


def segment_stage(recipe: PixelcontrastRecipe) -> Optimise:
    """A plain segmenter of its own, trained on the masks."""
    plain = optimise_stage(
        "segment",
        recipe.stages.segment,
        begin=lambda model: begin_segmenter(model, recipe),
        words="a plain segmenter learns from the masks",
    )
    return replace(plain, dataset=lambda dataset, out: with_masks(dataset, out / MASKS / "labels"))
