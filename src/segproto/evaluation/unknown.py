"""How well a model's scores tell pixels of unknown things: against masks that say which are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.data.images import read_indices
from segproto.errors import DataError
from segproto.evaluation.rescore import EncoderFeatures
from segproto.metrics.unknown import UnknownPixels, truth_of
from segproto.model.field import Field
from segproto.model.ood import score_names, unknown_scores

SUFFIX = ".png"


@torch.no_grad()
def score_unknown(
    features: EncoderFeatures,
    masks: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    rank: int = 0,
    world: int = 1,
    gather: Callable[[dict[str, Tensor]], list[dict[str, Tensor]]] = lambda state: [state],
) -> dict[str, Any]:
    """AUROC, average precision and FPR at 95 % TPR of each score of :func:`segproto.model.ood.unknown_scores`.

    Args:
        features: of the model and the data set whose images are scored, seen whole.
        masks: folder of ``NAME.png``: 1 = unknown, 0 = known, 255 = void. Images without one are left out.
        progress: called with (images done, images).
        rank: this process.
        world: processes that share the images.
        gather: what each of them found, for all of them.

    Returns:
        ``images`` (how many have a mask) and ``scores``: by name ``auroc``, ``average_precision``, ``fpr95`` (with a
        ``reason`` where there are none) and ``image_auroc``, see
        :meth:`segproto.metrics.unknown.UnknownPixels.compute`.

    Raises:
        DataError: no image has a mask, one holds other numbers or has another size.
    """
    model, dataset = features.model, features.dataset
    chosen = [index for index, name in enumerate(dataset.names) if (masks / f"{name}{SUFFIX}").is_file()]
    if not chosen:
        first = f"{dataset.names[0]}{SUFFIX}" if len(dataset) else "NAME.png"
        raise DataError(f"{masks}: holds no mask of the {dataset.split} images; expected {first} and alike")
    metrics = {name: UnknownPixels() for name in score_names(model.head)}
    for done, index in enumerate(chosen[rank::world], 1):
        file = masks / f"{dataset.names[index]}{SUFFIX}"
        height, width = image_size(dataset, index)
        truth = truth_of(torch.from_numpy(read_indices(file)))
        if truth is None:
            raise DataError(f"{file}: holds other numbers than 0 (known), 1 (unknown) and 255 (void)")
        if truth.shape != (height, width):
            raise DataError(f"{file}: {truth.shape[1]} x {truth.shape[0]} pixels, but its image has {width} x {height}")
        for name, grid in unknown_scores(model.head, features.get(index)).items():
            field = Field.over(grid[0].float(), model.encoder, (height, width), (height, width))
            metrics[name].update(field.rows(0, height)[0], truth, index)
        if progress is not None:
            progress(min(done * world, len(chosen)), len(chosen))
    scores = {}
    for name, metric in metrics.items():
        whole = UnknownPixels()
        for state in gather(metric.state_dict()):
            whole.merge(state)
        scores[name] = whole.compute()
    return {
        "images": len(chosen),
        "scores": {name: {"auroc": value.pop("value"), **value} for name, value in scores.items()},
    }


def image_size(dataset: SegmentationDataset, index: int) -> tuple[int, int]:
    """(height, width) of an image of a data set."""
    height, width = dataset[index].image.shape[-2:]
    return height, width
