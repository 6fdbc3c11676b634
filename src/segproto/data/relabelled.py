"""A data set whose masks are read in other numbers."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from segproto.data.base import ClassTable, Sample, SegmentationDataset


class Relabelled(SegmentationDataset):
    """Another data set's images with other classes; subclasses say under which fingerprint.

    Args:
        whole: the other data set.
        classes: the new classes.
        table: (256,) or more, from old mask values to new ones.
    """

    def __init__(self, whole: SegmentationDataset, classes: ClassTable, table: Tensor) -> None:
        self.whole, self.classes, self._table = whole, classes, table
        self.split, self.names = whole.split, whole.names

    def __getitem__(self, index: int) -> Sample:
        sample = self.whole[index]
        return sample._replace(mask=self._table[sample.mask.long()])

    def path(self, index: int) -> Path | None:
        return self.whole.path(index)

    def stamp(self, index: int) -> str:
        return self.whole.stamp(index)

    def parts(self, index: int) -> Tensor | None:
        return self.whole.parts(index)

    @property
    def part_names(self) -> dict[int, str]:
        return self.whole.part_names

    def instances(self, index: int) -> Tensor | None:
        return self.whole.instances(index)

    @property
    def instance_sizes(self) -> dict[str, float]:
        return self.whole.instance_sizes

    @property
    def label_source(self) -> str | None:
        return self.whole.label_source
