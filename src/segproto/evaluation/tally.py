"""What a validation counts while images go by, on one process or several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from segproto.data.base import ClassTable, Sample, SegmentationDataset
from segproto.data.coarse import coarse_line
from segproto.errors import DataError
from segproto.metrics.instances import instance_iou, instance_shares
from segproto.metrics.segmentation import ConfusionMatrix, segmentation_scores
from segproto.prototypes.labels import IGNORE_INDEX


class Tally:
    """Pixels by true and predicted class, void pixels, and instances found.

    Args:
        dataset: what is scored.
        num_classes: rows of the table; at least the data set's classes.
        device: where predictions are.
        instances: count instances too, if the data set has some.

    Attributes:
        confusion: counts of (true class, predicted class).
        void: int64 (1,) void pixels.
        shares: float64 (2, C), see :func:`segproto.metrics.instances.instance_shares`.
        with_instances: int64 (1,) images whose instances are known.
    """

    def __init__(
        self, dataset: SegmentationDataset, num_classes: int, device: torch.device, instances: bool = True
    ) -> None:
        self.dataset, self.device = dataset, device
        self.sizes = dataset.instance_sizes if instances else {}
        self.confusion = ConfusionMatrix(num_classes)
        self.void, self.with_instances = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self.shares = torch.zeros(2, num_classes, dtype=torch.float64, device=device)

    def add(self, index: int, sample: Sample, prediction: Tensor) -> None:
        """Counts one image; ``prediction`` (H, W).

        Raises:
            DataError: its instances have another size.
        """
        pred, target = prediction.to(self.device), sample.mask.to(self.device)
        self.confusion.update(pred, target)
        self.void += torch.count_nonzero(target == IGNORE_INDEX)  # a sum would take 8 bytes per pixel
        ids = self.dataset.instances(index) if self.sizes else None
        if ids is None:
            return
        if ids.shape != target.shape:
            sizes = f"{tuple(ids.shape)} pixels, its mask {tuple(target.shape)}"
            raise DataError(f"{sample.name}: its instances are {sizes}")
        self.shares += instance_shares(pred, target, ids.to(self.device), self.confusion.num_classes)
        self.with_instances += 1

    def reduced(self, reduce: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Sums everything over processes; the table of pixels, int64 (C, C)."""
        counts = self.confusion.counts.to(self.device)
        if reduce is None:
            return counts
        self.void, self.with_instances, self.shares = (
            reduce(value) for value in (self.void, self.with_instances, self.shares)
        )
        return reduce(counts)

    def instance_scores(self, counts: Tensor) -> list[float | None] | None:
        """Instance IoU per class of the data set; None unless the instances of every image are known."""
        if int(self.with_instances) < len(self.dataset):
            return None
        names = self.dataset.classes.names
        sizes = torch.tensor([self.sizes.get(name, float("nan")) for name in names], dtype=torch.float64)
        return instance_iou(self.shares[:, : len(names)], counts[: len(names), : len(names)], sizes)


def report(
    counts: Tensor,
    classes: ClassTable,
    undecided: Tensor | None = None,
    *,
    void: int | None = None,
    instance_iou: list[float | None] | None = None,
) -> dict[str, Any]:
    """The scores of a confusion matrix, JSON-ready.

    Args:
        counts: int64 (C, C), rows = true classes.
        classes: their names.
        undecided: (C,) further pixels per true class, without a predicted class: wrong for their class and no other.
        void: pixels that do not count, if known.
        instance_iou: one value per class, None for classes without instances.

    Returns:
        ``miou``, ``accuracy``, ``per_class``, ``confusion``; where given ``void`` (share of all pixels) and ``iiou``,
        the mean over the classes with instances; ``warning`` where the void share gives coarse labels away.
    """
    scores = segmentation_scores(counts, undecided)
    per_class: list[dict[str, Any]] = [
        {"name": name, "iou": iou, "pixels": pixels}
        for name, iou, pixels in zip(classes.names, scores.iou, scores.pixels, strict=True)
    ]
    figures: dict[str, Any] = {"miou": scores.miou, "accuracy": scores.accuracy}
    if void is not None:
        figures["void"] = void / max(void + sum(scores.pixels), 1)
        if warning := coarse_line(figures["void"], classes.names):
            figures["warning"] = f"{warning}: scores are far too high"
    if instance_iou is not None:
        for row, value in zip(per_class, instance_iou, strict=True):
            row["iiou"] = value
        measured = [value for value in instance_iou if value is not None]
        figures["iiou"] = sum(measured) / len(measured) if measured else None
    return figures | {"per_class": per_class, "confusion": counts.tolist()}
