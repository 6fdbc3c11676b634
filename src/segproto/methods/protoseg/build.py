"""The model before its first step."""

from __future__ import annotations

from segproto.data.base import ClassTable
from segproto.encoders.base import Encoder
from segproto.encoders.build import build_encoder
from segproto.methods.protoseg.config import ProtoSegRecipe
from segproto.model.heads import PrototypeHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank


def build(recipe: ProtoSegRecipe, classes: ClassTable) -> Segmenter:
    """A single-scale encoder and a regular bank of prototypes with its linear readout."""
    encoder = build_encoder(recipe.encoder)
    bank = untrained_bank(encoder, classes.num_classes, recipe.model.prototypes)
    return Segmenter(encoder, PrototypeHead(bank, recipe.model.incorrect_strength), classes)


def untrained_bank(encoder: Encoder, num_classes: int, prototypes: int) -> PrototypeBank:
    """A single scale, however many the encoder has; ``prototypes`` per class and scale, uniform in [0, 1)."""
    return PrototypeBank.regular(num_classes, prototypes, 1, encoder.num_features)
