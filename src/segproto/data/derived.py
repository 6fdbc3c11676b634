"""Data sets whose images are another's: some of them, or with other labels, or cut."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from segproto.data.base import SegmentationDataset


class Derived(SegmentationDataset):
    """Another data set's images; what a subclass does not say itself is as the other data set says.

    Args:
        dataset: the other data set.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.whole = dataset
        self.classes, self.split, self.names = dataset.classes, dataset.split, dataset.names

    def source_index(self, index: int) -> int:
        """The number of an image in the other data set."""
        return index

    def path(self, index: int) -> Path | None:
        return self.whole.path(self.source_index(index))

    def stamp(self, index: int) -> str:
        return self.whole.stamp(self.source_index(index))

    def parts(self, index: int) -> Tensor | None:
        return self.whole.parts(self.source_index(index))

    @property
    def part_names(self) -> dict[int, str]:
        return self.whole.part_names

    def instances(self, index: int) -> Tensor | None:
        return self.whole.instances(self.source_index(index))

    @property
    def instance_sizes(self) -> dict[str, float]:
        return self.whole.instance_sizes

    @property
    def assumes_void(self) -> bool:
        return self.whole.assumes_void

    @property
    def former_classes(self) -> dict[str, int]:
        return self.whole.former_classes

    @property
    def label_source(self) -> str | None:
        return self.whole.label_source
