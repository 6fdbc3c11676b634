"""Images as a model sees them whose categories were found without labels, or that has classes where they have none."""

from __future__ import annotations

import torch

from segproto.data.base import SegmentationDataset, label_dtype
from segproto.data.relabelled import Relabelled
from segproto.evaluation.same_classes import require_same_classes
from segproto.model.segmenter import Segmenter
from segproto.prototypes.labels import IGNORE_INDEX
from segproto.runs.folder import Run


def comparable(dataset: SegmentationDataset, run: Run, model: Segmenter) -> SegmentationDataset:
    """The data set itself, or for a model of found categories its masks in the categories they were matched to.

    Images without masks come with the model's classes, of which they show none that is known.

    Raises:
        DataError: other classes than the model's.
    """
    if model.found_categories:
        return InCategories(dataset, run, model)
    if not dataset.classes.names:
        return OfModel(dataset, model.classes, torch.full((256,), IGNORE_INDEX, dtype=torch.uint8))
    require_same_classes(model, dataset)
    return dataset


class OfModel(Relabelled):
    """Images without masks."""

    @property
    def fingerprint(self) -> str:
        return self.whole.fingerprint


class InCategories(Relabelled):
    """Masks in the numbers of the matched categories; classes without a category are void.

    Args:
        whole: labelled images.
        run: whose evaluation holds the matching; without one all is void.
        model: its model.
    """

    def __init__(self, dataset: SegmentationDataset, run: Run, model: Segmenter) -> None:
        class_ids = {name: index for index, name in enumerate(dataset.classes.names)}
        size = max(256, dataset.classes.num_classes)
        table = torch.full((size,), IGNORE_INDEX, dtype=label_dtype(model.classes.num_classes))
        for category, row in enumerate(run.evaluation.get("matching", [])):
            if row["class"] in class_ids:
                table[class_ids[row["class"]]] = category
        super().__init__(dataset, model.classes, table)

    @property
    def fingerprint(self) -> str:
        return f"{self.whole.fingerprint}-matched"
