"""The recipe of any method for generated scenes, each of its stages cut to two steps."""

from __future__ import annotations

from segproto.methods import METHODS
from segproto.runs.catalogue import read_recipe
from segproto.training.recipe import Recipe, apply_overrides, validate_recipe

SMALL = [
    "data.scenes.size=48",
    "data.scenes.num_train=24",
    "data.scenes.num_val=3",
    "data.augment.crop=48",
    "encoder.width=4",
    "encoder.dim=8",
    "encoder.rates=[1,2]",
    "train.batch_size=4",
    "train.threads=1",
    "train.checkpoint_every=1",
    "train.accelerator=cpu",
]


def two_steps(name: str) -> Recipe:
    """The method's recipe for scenes, each of its stages cut to two steps."""
    method = METHODS[name]
    value = apply_overrides(read_recipe(f"{method.name}/scenes"), SMALL)
    for stage in value["stages"].values():
        if "steps" in stage:
            stage["steps"] = 2
    return validate_recipe(value, method.recipe)
