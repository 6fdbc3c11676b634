"""The stages of protoseg: prototypes, projection, finetune, pruning, finetune."""

from __future__ import annotations

from segproto.methods.protoseg.build import untrained_bank
from segproto.methods.protoseg.config import ProtoSegRecipe
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.training.procedures.forgetting import forget_stages
from segproto.training.procedures.optimise import optimise_stage
from segproto.training.procedures.prototypes import prototype_stages
from segproto.training.procedures.pruning import pruning_stage
from segproto.training.stage import Stage


def stages(recipe: ProtoSegRecipe) -> list[Stage]:
    """All stages in order; the runner drops those with 0 steps and those ``train.stages`` leaves out."""
    s, variant = recipe.stages, recipe.model.diversity

    def bank(model: Segmenter) -> PrototypeBank:
        return untrained_bank(model.encoder, model.classes.num_classes, recipe.model.prototypes)

    return [
        *prototype_stages(s, recipe.model, bank),
        pruning_stage("prune", s.prune),
        optimise_stage("prune_finetune", s.prune_finetune, variant, words="the readout adapts to those that stayed"),
        *forget_stages(s.forget, variant),
    ]
