"""The stages of primaps: proposals, initial directions, k-means, EM, and what was found."""

from __future__ import annotations

from segproto.methods.primaps.categories import report_categories
from segproto.methods.primaps.config import KmeansConfig, PrimapsRecipe
from segproto.methods.primaps.em import EmLoss, begin_em
from segproto.methods.primaps.initialise import initialise
from segproto.methods.primaps.proposed import Proposed, make_proposals
from segproto.methods.primaps.stego import stego_stages
from segproto.model.direction_head import DirectionHead, TeacherHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.expectation import kmeans_loss
from segproto.training.procedures.optimise import batch_features
from segproto.training.procedures.require import require_head
from segproto.training.stage import Optimise, ParamGroup, Procedure, Stage


def stages(recipe: PrimapsRecipe) -> list[Stage]:
    """All stages in order; the runner drops those with 0 steps and those ``train.stages`` leaves out."""
    s = recipe.stages
    chosen: list[Stage] = stego_stages(s.stego)
    if s.em.steps:
        words = "each image is grouped into mask proposals"
        chosen.append(Procedure("proposals", lambda context: make_proposals(context, s.proposals), words))
    words = "categories start as principal components of the features"
    chosen.append(Procedure("init", lambda context: initialise(context, s.init), words))
    chosen.append(kmeans_stage(s.kmeans))
    chosen.append(em_stage(recipe))
    words = "a gallery of the categories is written" + (", and masks of the training images" if s.found.masks else "")
    making = s.found.masks
    chosen.append(Procedure("found", lambda context: report_categories(context, s.found), words, leaves_masks=making))
    return chosen


def kmeans_stage(config: KmeansConfig) -> Optimise:
    """Cosine k-means of the directions on the feature grid (Hamilton et al. 2022; the published baseline)."""
    return Optimise(
        name="kmeans",
        steps=config.steps,
        parameters=lambda model: [ParamGroup([direction_head(model).bank.directions], config.lr)],
        loss=lambda model, batch: {
            "loss": kmeans_loss(batch_features(model, batch)[-1], direction_head(model).bank.directions)
        },
        mode=eval_mode,
        words="categories become cosine clusters",
    )


def eval_mode(model: Segmenter) -> None:
    """Nothing of the encoder trains, so nothing of it behaves as in training."""
    model.eval()


def direction_head(model: Segmenter) -> DirectionHead:
    """The model's head."""
    return require_head(model, "kmeans", DirectionHead)


def em_stage(recipe: PrimapsRecipe) -> Optimise:
    """The student learns from the teacher's votes on the proposals."""
    config = recipe.stages.em
    loss = EmLoss(config, recipe.train.seed)
    return Optimise(
        name="em",
        steps=config.steps,
        parameters=lambda model: em_parameters(model, config.lr),
        loss=loss,
        mode=eval_mode,
        begin=lambda model: begin_em(model, config),
        after_step=loss.step,
        dataset=Proposed,
        words="categories learn from the mask proposals",
    )


def em_parameters(model: Segmenter, lr: float) -> list[ParamGroup]:
    """The student, and the probe if there is one; the teacher follows without a gradient."""
    head = require_head(model, "em", TeacherHead)
    groups = [ParamGroup(list(head.student.parameters()), lr)]
    if head.probe_weight is not None and head.probe_bias is not None:
        groups.append(ParamGroup([head.probe_weight, head.probe_bias], lr))
    return groups
