"""Class weights counted over the training masks, where a stage asks for ``class_weights: auto``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.prototypes.labels import IGNORE_INDEX
from segproto.prototypes.losses import median_frequency_weights
from segproto.training.devices import on_first
from segproto.training.progress import Reporter
from segproto.training.recipe import RecipeT

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def with_class_weights(recipe: RecipeT, dataset: SegmentationDataset, fabric: Fabric, reporter: Reporter) -> RecipeT:
    """The recipe with numbers in the place of ``auto``; itself where no stage asks.

    Args:
        recipe: of the run.
        dataset: the training images.
        fabric: the first process counts for all.
        reporter: shows the progress, and what the weights became.
    """
    stages = getattr(recipe, "stages", None)
    if stages is None:
        return recipe
    names = [name for name in type(stages).model_fields if weights_of(stages, name) == "auto"]
    if not names:
        return recipe
    measured: list[list[float]] = []

    def count() -> None:
        with reporter.bar("count the pixels of each class", len(dataset)) as bar:
            pixels, beside = count_pixels(dataset, bar)
        measured.append([round(w, 4) for w in median_frequency_weights(pixels, beside).tolist()])

    on_first(fabric, count)
    weights = fabric.broadcast(measured)[0] if fabric.world_size > 1 else measured[0]
    words = ", ".join(f"{name} {w:g}" for name, w in zip(dataset.classes.names[:12], weights, strict=False))
    reporter.line(f"class_weights = auto became: {words}{', ...' if len(weights) > 12 else ''}")
    changed = {name: getattr(stages, name).model_copy(update={"class_weights": weights}) for name in names}
    return recipe.model_copy(update={"stages": stages.model_copy(update=changed)})


def weights_of(stages: object, name: str) -> object:
    """The setting of a stage; None where it has none."""
    return getattr(getattr(stages, name), "class_weights", None)


def count_pixels(dataset: SegmentationDataset, progress: object = None) -> tuple[Tensor, Tensor]:
    """Pixels of each class, and labelled pixels of the images that show it: int64 (C,) each."""
    count = dataset.classes.num_classes
    pixels, beside = (torch.zeros(count, dtype=torch.int64) for _ in range(2))
    for index in range(len(dataset)):
        shown = torch.bincount(dataset[index].mask.flatten().long(), minlength=max(256, count))
        shown[IGNORE_INDEX] = 0
        pixels += shown[:count]
        beside += (shown[:count] > 0) * shown.sum()
        if callable(progress):
            progress(index + 1, len(dataset))
    return pixels, beside
