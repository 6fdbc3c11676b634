"""The untrained model of pixelcontrast."""

from __future__ import annotations

from segproto.data.base import ClassTable
from segproto.encoders.build import build_encoder
from segproto.errors import ConfigError
from segproto.methods.pixelcontrast.config import PixelcontrastRecipe
from segproto.model.cam_head import CamHead, MapHead
from segproto.model.heads import LinearHead
from segproto.model.segmenter import Segmenter
from segproto.model.tap_head import AffinityHead, TapHead

AFFINITIES = "affinities"  # in a model's card: whether they were ever trained


def build(recipe: PixelcontrastRecipe, classes: ClassTable) -> Segmenter:
    """The encoder with a head of class activation maps.

    Raises:
        ConfigError: fewer than two classes.
    """
    if classes.num_classes < 2:
        raise ConfigError(f"data: {classes.num_classes} classes; pixelcontrast needs a background (class 0) and others")
    encoder = build_encoder(recipe.encoder)
    head: MapHead = CamHead(encoder.num_features, classes.num_classes)
    if recipe.network == "seam":
        head = TapHead(classes.num_classes)
    if recipe.network == "eps":
        pairs = recipe.stages.contrast.second_view is not None  # plain EPS refines and contrasts nothing
        head = TapHead(classes.num_classes, 128 if pairs else 0, refine=pairs, dropout=0.0, shows="logits")
    return Segmenter(encoder, head, classes)


def begin_affinity(model: Segmenter, recipe: PixelcontrastRecipe) -> None:
    """Published heads have a network of their own for the affinities, from the encoder's first weights."""
    model.card[AFFINITIES] = True
    if recipe.network != "plain":
        model.encoder = build_encoder(recipe.encoder)
        model.head = AffinityHead(model.classes.num_classes)


def begin_segmenter(model: Segmenter, recipe: PixelcontrastRecipe) -> None:
    """A fresh encoder with a 1x1 classifier: the last stage learns from the masks alone."""
    model.encoder = build_encoder(recipe.encoder)
    model.head = LinearHead(model.encoder.num_features, model.classes.num_classes)
