"""A data set whose masks are read in other numbers."""

from __future__ import annotations

from torch import Tensor

from segproto.data.base import ClassTable, Sample, SegmentationDataset
from segproto.data.derived import Derived


class Relabelled(Derived):
    """Another data set's images with other classes; subclasses say under which fingerprint.

    Args:
        dataset: the other data set.
        classes: the new classes.
        table: (256,) or more, from old mask values to new ones.
    """

    def __init__(self, dataset: SegmentationDataset, classes: ClassTable, table: Tensor) -> None:
        super().__init__(dataset)
        self.classes, self._table = classes, table

    def __getitem__(self, index: int) -> Sample:
        sample = self.whole[index]
        return sample._replace(mask=self._table[sample.mask.long()])

    @property
    def former_classes(self) -> dict[str, int]:
        before = self.whole.former_classes or {name: number for number, name in enumerate(self.whole.classes.names)}
        return {name: int(self._table[number]) for name, number in before.items()}
