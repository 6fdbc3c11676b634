"""A small nonparametric model, a batch for it, and a short run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_segmenters import encoder
from two_steps import two_steps

from segproto.data.base import ClassTable
from segproto.data.batch import Batch
from segproto.methods import METHODS
from segproto.methods.nonparametric.build import make_head
from segproto.methods.nonparametric.config import NonparametricModel
from segproto.model.heads import NearestHead
from segproto.model.segmenter import Segmenter
from segproto.training.recipe import apply_overrides, validate_recipe
from segproto.training.runner import run

CLASSES, DIM = 4, 6


def head(projection: str = "none", feature: str = "layernorm", score: str = "layernorm", seed: int = 0) -> NearestHead:
    torch.manual_seed(seed)
    config = NonparametricModel(prototypes=3, projection_norm=projection, feature_norm=feature, score_norm=score)
    out = make_head(config, CLASSES, DIM)
    for parameter in out.parameters():
        torch.nn.init.normal_(parameter, 1, 0.3)
    return out


def model(seed: int = 0, **options: str) -> Segmenter:
    colours = tuple((40 * i, 255 - 40 * i, 90) for i in range(CLASSES))
    table = ClassTable(tuple(f"class{i}" for i in range(CLASSES)), colours)
    return Segmenter(encoder(seed=seed), head(seed=seed, **options), table)


def batch(size: int, seed: int = 0) -> Batch:
    """Random images, and masks of 8 x 8 blocks, a fifth of them void."""
    torch.manual_seed(seed)
    blocks = torch.randint(0, CLASSES + 1, (size, 4, 4))
    blocks[blocks == CLASSES] = 255
    masks = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return Batch(masks=masks, images=torch.randn(size, 3, 32, 32))


def train(out: Path, *overrides: str) -> Segmenter:
    method = METHODS["nonparametric"]
    value: dict[str, Any] = two_steps("nonparametric").model_dump(mode="json")
    run(method, validate_recipe(apply_overrides(value, overrides), method.recipe), out, quiet=True)
    return Segmenter.load(out)
