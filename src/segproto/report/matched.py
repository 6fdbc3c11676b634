"""Labelled images as a model sees them whose categories were found without labels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from segproto.data.base import IGNORE_INDEX, Sample, SegmentationDataset
from segproto.model.segmenter import Segmenter
from segproto.report.runs import Run


def comparable(dataset: SegmentationDataset, run: Run, model: Segmenter) -> SegmentationDataset:
    """The data set itself, or for a model of found categories its masks in the categories they were matched to."""
    return InCategories(dataset, run, model) if model.found_categories else dataset


class InCategories(SegmentationDataset):
    """Masks in the numbers of the matched categories; classes without a category are void.

    Args:
        whole: labelled images.
        run: whose evaluation holds the matching; without one all is void.
        model: its model.
    """

    def __init__(self, whole: SegmentationDataset, run: Run, model: Segmenter) -> None:
        self.whole, self.split, self.names = whole, whole.split, whole.names
        self.classes = model.classes
        known = {name: index for index, name in enumerate(whole.classes.names)}
        self._table = torch.full((256,), IGNORE_INDEX, dtype=torch.uint8)
        for category, row in enumerate(run.evaluation.get("matching", [])):
            if row["class"] in known:
                self._table[known[row["class"]]] = category

    def __getitem__(self, index: int) -> Sample:
        sample = self.whole[index]
        return sample._replace(mask=self._table[sample.mask.long()])

    def path(self, index: int) -> Path | None:
        return self.whole.path(index)

    def parts(self, index: int) -> Tensor | None:
        return self.whole.parts(index)

    @property
    def part_names(self) -> dict[int, str]:
        return self.whole.part_names

    @property
    def fingerprint(self) -> str:
        return f"{self.whole.fingerprint}-matched"
