"""Scoring many heads on one encoder in a single pass: its features are computed once, or read from a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.errors import DataError
from segproto.evaluation.same_classes import require_same_classes
from segproto.evaluation.tally import report
from segproto.files import tag_cache, write_tensors
from segproto.metrics.segmentation import ConfusionMatrix
from segproto.model.features import image_features
from segproto.model.field import Field
from segproto.model.fingerprint import encoder_hash
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating, field_mask

Progress = Callable[[int, int], None]


class EncoderFeatures:
    """Features of whole images as the head receives them, float32, kept on disk where a folder is given.

    The folder is named after the encoder's hash and the data set's fingerprint, so every head on the same encoder,
    edited or not, finds them again, and nothing else does.

    Args:
        model: whose encoder; in eval mode while features are computed.
        dataset: its images, at native size.
        root: where caches live (``$SEGPROTO_CACHE``); None = nothing is kept.

    Attributes:
        reused: images whose features were read, not computed.
    """

    def __init__(self, model: Segmenter, dataset: SegmentationDataset, root: Path | None = None) -> None:
        self.model, self.dataset, self.reused = model, dataset, 0
        name = f"features-{encoder_hash(model.encoder)[:20]}-{dataset.fingerprint}"
        self.folder = None if root is None else Path(root) / name

    def get(self, index: int) -> Tensor:
        """The features (1, F, h, w) of an image, on the model's device.

        Raises:
            DataError: the cache cannot be written, or the image cannot be read.
        """
        device = next(self.model.parameters()).device
        path = None if self.folder is None else self.folder / f"{index:06d}.safetensors"
        if path is not None and path.exists():
            try:
                cached: Tensor = load_file(path)["features"].to(device)
                self.reused += 1
                return cached
            except (SafetensorError, KeyError):
                pass  # cut off: computed again
        with evaluating(self.model):
            features = image_features(self.model, self.dataset, index).float()
        if path is not None:
            tag_cache(path.parent)
            write_tensors(path, {"features": features}, None, advice="free some space, or unset SEGPROTO_CACHE")
        return features


@torch.no_grad()
def rescore(
    features: EncoderFeatures,
    answers: Callable[[Tensor], Sequence[Tensor]],
    count: int,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Scores several ways to answer from the same features.

    Args:
        features: of the images.
        answers: features (1, F, h, w) to ``count`` grid logits (1, C, h, w).
        count: how many ways.
        progress: called with (images done, images).

    Returns:
        For each way the figures of :func:`segproto.evaluation.validate.report`.

    Raises:
        DataError: no labelled pixel, or another number of classes than the model's.
    """
    model, dataset = features.model, features.dataset
    classes = dataset.classes
    require_same_classes(model, dataset)
    confusions = [ConfusionMatrix(classes.num_classes) for _ in range(count)]
    for index in range(len(dataset)):
        mask = dataset[index].mask
        size = (mask.shape[-2], mask.shape[-1])
        grids = answers(features.get(index))
        mask = mask.to(grids[0].device)
        for confusion, grid in zip(confusions, grids, strict=True):
            confusion.update(field_mask([Field.over(grid[0].float(), model.encoder, size, size)]), mask)
        if progress is not None:
            progress(index + 1, len(dataset))
    if not bool(confusions[0].counts.any()):
        raise DataError(f"no labelled pixel in the {len(dataset)} images of split {dataset.split}: nothing to score")
    return [report(confusion.counts, classes) for confusion in confusions]


def of_shown(scores: dict[str, Any], shown: Sequence[str]) -> dict[str, Any]:
    """Scores in which classes that no mask can show have no IoU: what is answered with them is wrong for others."""
    rows = [row if row["name"] in shown else {**row, "iou": None} for row in scores["per_class"]]
    measured = [row["iou"] for row in rows if row["iou"] is not None]
    return {**scores, "per_class": rows, "miou": sum(measured) / len(measured) if measured else None}


def change(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What an edit changed: mIoU, accuracy, and the IoU of every class, each as before, after and change (or None)."""

    def pair(old: float | None, new: float | None) -> dict[str, float | None]:
        return {"before": old, "after": new, "change": None if old is None or new is None else new - old}

    rows = zip(before["per_class"], after["per_class"], strict=True)
    return {
        "miou": pair(before["miou"], after["miou"]),
        "accuracy": pair(before["accuracy"], after["accuracy"]),
        "per_class": [{"name": old["name"], **pair(old["iou"], new["iou"])} for old, new in rows],
    }
