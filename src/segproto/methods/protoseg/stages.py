"""The stages of protoseg: prototypes, projection, finetune, pruning, finetune."""

from __future__ import annotations

from segproto.methods.protoseg.build import untrained_bank
from segproto.methods.protoseg.config import ProtoSegRecipe
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.training.procedures.forgetting import forget_stages
from segproto.training.procedures.optimise import optimise_stage
from segproto.training.procedures.projection import projection_stage
from segproto.training.procedures.pruning import pruning_stage
from segproto.training.procedures.seeding import begin_prototypes, seeding_stages
from segproto.training.stage import Stage


def stages(recipe: ProtoSegRecipe) -> list[Stage]:
    """All stages in order; the runner drops those with 0 steps and those ``train.stages`` leaves out."""
    s, variant = recipe.stages, recipe.model.diversity

    def bank(model: Segmenter) -> PrototypeBank:
        return untrained_bank(model.encoder, model.classes.num_classes, recipe.model.prototypes)

    def begin(model: Segmenter) -> None:
        begin_prototypes(model, bank, recipe.model.incorrect_strength)

    return [
        *seeding_stages(s.linear, s.seed, begin),
        optimise_stage("warmup", s.warmup, variant, begin, words="the new layers learn first"),
        optimise_stage("joint", s.joint, variant, begin, words="encoder and prototypes learn together"),
        projection_stage("project", s.project),
        optimise_stage("finetune", s.finetune, variant, words="the readout adapts to the projected prototypes"),
        pruning_stage("prune", s.prune),
        optimise_stage("prune_finetune", s.prune_finetune, variant, words="the readout adapts to those that stayed"),
        *forget_stages(s.forget, variant),
    ]
