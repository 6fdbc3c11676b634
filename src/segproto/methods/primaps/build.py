"""The model before its first step."""

from __future__ import annotations

import torch

from segproto.data.base import ClassTable
from segproto.data.palette import default_colours
from segproto.encoders.build import build_encoder
from segproto.errors import ConfigError
from segproto.methods.primaps.config import PrimapsRecipe
from segproto.model.direction_head import DirectionBank, DirectionHead
from segproto.model.segmenter import Segmenter


def build(recipe: PrimapsRecipe, classes: ClassTable) -> Segmenter:
    """Encoder and random directions, one per category; the categories have numbers, no names."""
    count = recipe.num_classes or classes.num_classes
    if count < 2:
        raise ConfigError("num_classes: missing; without labels say how many categories to find: num_classes=8")
    encoder = build_encoder(recipe.encoder)
    if count > 2 * encoder.num_features:
        raise ConfigError(
            f"num_classes = {count}: the encoder has {encoder.num_features} channels, which tell twice as many apart"
        )
    bank = DirectionBank(torch.randn(count, encoder.num_features))
    card = {"found_categories": True, "labels": list(classes.names)}
    return Segmenter(encoder, DirectionHead(bank), category_table(count), card=card)


def category_table(count: int) -> ClassTable:
    """``category 0`` ..., as the numbers in the masks, with colours that can be told apart."""
    return ClassTable(tuple(f"category {i}" for i in range(count)), default_colours(count))
