"""The stages of nonparametric: a warm-up and seeds if wanted, joint learning, and patches to look at."""

from __future__ import annotations

from dataclasses import replace

from segproto.methods.nonparametric.build import begin_nearest
from segproto.methods.nonparametric.config import JointConfig, NonparametricModel, NonparametricRecipe
from segproto.methods.nonparametric.loss import ClusterLoss
from segproto.methods.nonparametric.seeding import seed
from segproto.methods.nonparametric.tracing import trace_prototypes
from segproto.methods.nonparametric.watching import Watch
from segproto.model.segmenter import Segmenter
from segproto.training.procedures.optimise import encoder_groups, optimise_stage
from segproto.training.procedures.seeding import SEEDED, linear_stage
from segproto.training.stage import Optimise, ParamGroup, Procedure, Stage


def stages(recipe: NonparametricRecipe) -> list[Stage]:
    """All stages in order; the runner drops those with 0 steps and those ``train.stages`` leaves out."""
    s, chosen = recipe.stages, list[Stage]()
    if s.linear.steps > 0:
        chosen.append(linear_stage(s.linear))
    if s.seed.start != "random":
        words = SEEDED if s.seed.start == "features" else "prototypes begin around a classifier's class directions"
        chosen.append(Procedure("seed", lambda context: seed(context, s.seed, recipe.model), words))
    chosen.append(joint_stage(s.joint, recipe.model))
    words = "the nearest training patch of each prototype is found"
    chosen.append(Procedure("trace", lambda context: trace_prototypes(context, s.trace), words))
    return chosen


def joint_stage(config: JointConfig, model_config: NonparametricModel) -> Optimise:
    """Gradient steps, each followed by a momentum step of the prototypes."""
    loss = ClusterLoss(config)
    words = "the encoder learns by gradient, prototypes follow the features assigned to them"
    return replace(
        optimise_stage("joint", config, begin=lambda model: begin_nearest(model, model_config), words=words),
        parameters=lambda model: parameter_groups(model, config),
        loss=loss,
        after_step=loss.move,
        watch=Watch(),
    )


def parameter_groups(model: Segmenter, config: JointConfig) -> list[ParamGroup]:
    """Backbone, neck and the head's norms; prototypes are not parameters. Decay falls on backbone and neck only."""
    groups = encoder_groups(model, config)
    if config.lr.readout > 0:
        groups.append(ParamGroup(model.head.parts().readout, config.lr.readout))
    return [group for group in groups if group.params]
