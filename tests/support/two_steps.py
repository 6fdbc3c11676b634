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
SMALLER = ("train.batch_size=2", "train.validate_every=1", "data.scenes.num_train=12", "data.scenes.size=32")
WITHOUT_CRF = {
    "pixelcontrast": ("stages.crf.crf={name: A, iterations: 1}", "stages.masks.crf=null"),
    "primaps": ("stages.proposals.crf=false",),
}


def two_steps(name: str) -> Recipe:
    """The method's recipe for scenes, each of its stages cut to two steps."""
    method = METHODS[name]
    value = apply_overrides(read_recipe(f"{method.name}/scenes"), SMALL)
    for stage in value["stages"].values():
        if "steps" in stage:
            stage["steps"] = 2
    return validate_recipe(value, method.recipe)


def smaller(name: str, *settings: str) -> Recipe:
    """The same on fewer and smaller scenes, without the CRF of every image; ``settings`` are overrides."""
    value = apply_overrides(two_steps(name).model_dump(mode="json"), [*SMALLER, *WITHOUT_CRF.get(name, ()), *settings])
    return validate_recipe(value, METHODS[name].recipe)
