"""The stages of scaleproto: prototypes, projection, groups, threshold."""

from __future__ import annotations

from segproto.errors import ConfigError
from segproto.methods.scaleproto.build import untrained_bank
from segproto.methods.scaleproto.config import ScaleProtoModel, ScaleProtoRecipe
from segproto.model.heads import GroupedHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.training.procedures.forgetting import forget_stages
from segproto.training.procedures.group_seeding import group_seeding_stages
from segproto.training.procedures.optimise import optimise_stage
from segproto.training.procedures.prototypes import prototype_stages
from segproto.training.procedures.pruning import threshold_stage
from segproto.training.stage import Stage


def stages(recipe: ScaleProtoRecipe) -> list[Stage]:
    """All stages in order; the runner drops those with 0 steps and those ``train.stages`` leaves out.

    Without a step for groups there is nothing to threshold.
    """
    s, variant = recipe.stages, recipe.model.diversity

    def bank(model: Segmenter) -> PrototypeBank:
        return untrained_bank(model.encoder, model.classes.num_classes, recipe.model.prototypes)

    def grouped(model: Segmenter) -> None:
        begin_groups(model, recipe.model)

    groups: list[Stage] = [
        *(group_seeding_stages(s.group_seed, grouped) if s.group_warmup.steps or s.group_joint.steps else ()),
        optimise_stage("group_warmup", s.group_warmup, variant, grouped, words="groups of prototypes begin"),
        optimise_stage("group_joint", s.group_joint, variant, grouped, words="groups and their readout learn"),
    ]
    if s.group_warmup.steps or s.group_joint.steps:
        groups.append(threshold_stage("threshold", s.threshold))
    return [*prototype_stages(s, recipe.model, bank), *groups, *forget_stages(s.forget, variant, s.threshold)]


def begin_groups(model: Segmenter, config: ScaleProtoModel) -> None:
    """Replaces the readout of prototypes with groups and a readout of groups (once).

    Raises:
        ConfigError: the model has no prototypes to group.
    """
    head, bank = model.head, model.head.bank
    if head.grouping is not None:
        return
    if not isinstance(bank, PrototypeBank):
        raise ConfigError(f"train.start: a {head.kind} head has no prototypes to group; expected a prototype model")
    model.head = GroupedHead(bank, config.groups, config.incorrect_strength).to(bank.vectors.device)
