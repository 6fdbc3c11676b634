"""How the images of a run become pixels: the range that is measured once, and what a person should know of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from segproto.data.base import SegmentationDataset
from segproto.data.measure import start_notes, with_measured_range
from segproto.data.pixels import PixelRule
from segproto.training.devices import on_first
from segproto.training.progress import Reporter
from segproto.training.recipe import Recipe, RecipeT

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def measured(recipe: RecipeT, fabric: Fabric, reporter: Reporter) -> RecipeT:
    """The recipe with the value range of its images in numbers, see :mod:`segproto.data.measure`."""
    if recipe.data.to_measure is None:
        return recipe
    settings = []

    def look() -> None:
        with reporter.bar("measure the values of the training images", 1) as bar:
            settings.append(with_measured_range(recipe.data, bar))

    on_first(fabric, look)
    data = fabric.broadcast(settings)[0] if fabric.world_size > 1 else settings[0]
    reporter.line(f"data.value_range as measured: {data.value_range}")
    return recipe.model_copy(update={"data": data})


def pixels_of(recipe: Recipe, train_set: SegmentationDataset, reporter: Reporter) -> PixelRule:
    """How the images of a run are read, for its model; what a person should know of them is said."""
    rule = recipe.data.pixel_rule
    notes, stored = start_notes(train_set, rule, recipe.data.kind.own)
    for line in notes:
        reporter.line(f"note: {line}")
    if rule.words:
        reporter.line(f"pictures show {rule.words}")
    return replace(rule, stored=stored)
