"""The model before its first step."""

from __future__ import annotations

from segproto.data.base import ClassTable
from segproto.encoders.build import build_encoder
from segproto.errors import ConfigError
from segproto.methods.nonparametric.config import NonparametricModel, NonparametricRecipe
from segproto.model.heads import LinearHead, NearestHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.cosine_bank import CosineBank
from segproto.prototypes.seeding import random_prototypes


def build(recipe: NonparametricRecipe, classes: ClassTable) -> Segmenter:
    """Encoder and random prototypes, which read all its scales side by side."""
    encoder = build_encoder(recipe.encoder)
    return Segmenter(encoder, make_head(recipe.model, classes.num_classes, encoder.num_features), classes)


def make_head(config: NonparametricModel, num_classes: int, dim: int) -> NearestHead:
    """A head with random prototypes.

    Raises:
        ConfigError: a score norm that two classes leave nothing to decide by.
    """
    if config.score_norm == "layernorm" and num_classes < 3:
        raise ConfigError(
            f"model.score_norm = layernorm: {num_classes} class scores keep nothing but their order under it; "
            "set model.score_norm=scale"
        )
    bank = CosineBank(random_prototypes(num_classes, config.prototypes, dim))
    return NearestHead(bank, config.projection_norm, config.feature_norm, config.score_norm, config.temperature)


def begin_nearest(model: Segmenter, config: NonparametricModel) -> None:
    """Puts prototypes in the place of a plain classifier (a warm-up's, a black box's).

    Raises:
        ConfigError: the model has prototypes of another kind.
    """
    if isinstance(model.head, NearestHead):
        return
    if not isinstance(model.head, LinearHead):
        raise ConfigError(f"train.start: a {model.head.kind} head; expected a nearest or a linear one")
    head = make_head(config, model.classes.num_classes, model.encoder.num_features)
    model.head = head.to(model.head.weight.device)
