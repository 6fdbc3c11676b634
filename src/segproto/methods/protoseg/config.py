"""Recipe of protoseg. The published schedules are in ``recipes/``."""

from __future__ import annotations

from typing import Literal

from segproto.training.procedures.config import OptimiseConfig, ProjectConfig, PrototypeOptimise, PruneConfig
from segproto.training.procedures.forgetting import ForgetConfig
from segproto.training.procedures.prototypes import PrototypeModel, PrototypeRecipe, PrototypeStages


class ProtoSegProject(ProjectConfig):
    """Projection; a cell belongs to every class a pixel of its patch has, as in the ProtoSeg release."""

    membership: Literal["nearest_label", "any_pixel"] = "any_pixel"


class ProtoSegStages(PrototypeStages):
    """The stages in order; one without steps is skipped. ``prune_finetune`` finetunes the readout after pruning.

    ``forget`` is what ``segproto edit --forget`` sets.
    """

    project: ProtoSegProject = ProtoSegProject()
    prune: PruneConfig = PruneConfig()
    prune_finetune: PrototypeOptimise = OptimiseConfig()
    forget: ForgetConfig = ForgetConfig()


class ProtoSegRecipe(PrototypeRecipe):
    """A protoseg run."""

    method: Literal["protoseg"] = "protoseg"
    model: PrototypeModel = PrototypeModel()
    stages: ProtoSegStages = ProtoSegStages()
