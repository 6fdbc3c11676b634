"""Prototypes for a network that is already trained: its last layer in a basis that people can look at."""

from __future__ import annotations

from segproto.data.base import ClassTable
from segproto.encoders.build import build_encoder
from segproto.errors import ConfigError
from segproto.methods.posthoc.config import PosthocRecipe
from segproto.methods.posthoc.rotate import rotate_stage
from segproto.methods.posthoc.trace import trace_stage
from segproto.model.heads import LinearHead
from segproto.model.segmenter import Segmenter
from segproto.training.method import Method
from segproto.training.procedures.optimise import optimise_stage
from segproto.training.stage import Stage


def build(recipe: PosthocRecipe, classes: ClassTable) -> Segmenter:
    """A black box to be trained first, where no trained one is given.

    Raises:
        ConfigError: neither a trained network nor a stage that trains one, or a network of other classes.
    """
    if recipe.encoder.network is not None:
        raise ConfigError(
            "the network itself is in no file yet; from Python: segproto.posthoc(network, ..., resume=True)"
        )
    if recipe.train.start is not None:  # a head that must begin anew is no network to be explained
        raise ConfigError(
            f"train.start = {recipe.train.start}: its classes are not the {classes.num_classes} of the data; explain "
            "it on data of its own classes, or on images without masks: posthoc/images"
        )
    if recipe.stages.joint.steps == 0:
        raise ConfigError(
            "train.start: posthoc explains a network that is trained already; give a run: train.start=RUN"
        )
    encoder = build_encoder(recipe.encoder)
    return Segmenter(encoder, LinearHead(encoder.num_features, classes.num_classes), classes)


def stages(recipe: PosthocRecipe) -> list[Stage]:
    """All stages in order; a network that is given is trained no further."""
    s = recipe.stages
    first = [optimise_stage("joint", s.joint, words="a black box is trained first")]
    return [
        *(first if recipe.train.start is None else []),
        rotate_stage("rotate", s.rotate),
        trace_stage("trace", s.trace),
    ]


METHOD = Method(
    name="posthoc",
    title="Explains a network that is trained already: its last layer, split exactly over parts of a learned basis "
    "(after Struski et al. 2024)",
    supervision="none",
    recipe=PosthocRecipe,
    build=build,
    stages=stages,
    starts_from_any_encoder=True,
)
