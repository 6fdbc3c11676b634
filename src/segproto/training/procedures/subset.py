"""Some of a data set's images, chosen by a list of names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from segproto.data.base import Sample, SegmentationDataset
from segproto.data.pairs import read_list
from segproto.errors import DataError
from segproto.model.features import BackboneFeatures


class Subset(SegmentationDataset):
    """Images ``indices`` of another data set, in that order.

    Args:
        whole: the other data set.
        indices: of its images.
    """

    def __init__(self, whole: SegmentationDataset, indices: Sequence[int]) -> None:
        self.whole, self.indices = whole, tuple(indices)
        self.classes, self.split = whole.classes, whole.split
        self.names = tuple(whole.names[i] for i in self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[self.indices[index]]

    def path(self, index: int) -> Path | None:
        return self.whole.path(self.indices[index])

    def parts(self, index: int) -> Tensor | None:
        return self.whole.parts(self.indices[index])

    @property
    def part_names(self) -> dict[int, str]:
        return self.whole.part_names

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.whole.fingerprint, self.indices)).encode())
        return digest.hexdigest()[:16]


class SubsetFeatures:
    """Cached features of the whole data set, asked for by the indices of a subset.

    Args:
        cache: features of the whole.
        indices: as of :class:`Subset`.
    """

    def __init__(self, cache: BackboneFeatures, indices: Sequence[int]) -> None:
        self.cache, self.indices = cache, indices

    def get(self, index: int, flipped: bool) -> Tensor:
        """Backbone features of an image of the subset."""
        return self.cache.get(self.indices[index], flipped)


def listed(whole: SegmentationDataset, path: Path) -> Subset:
    """The images that a list file names, in the order of the data set.

    Raises:
        DataError: the list cannot be read, or names what the data set does not have.
    """
    names, known = read_list(path), set(whole.names)
    unknown = [name for name in names if name not in known]
    if unknown:
        others = f" and {len(unknown) - 1} others" if len(unknown) > 1 else ""
        raise DataError(
            f"{path}: {unknown[0]!r}{others} not among the {len(known)} training images "
            f"(which have names such as {whole.names[0]!r}); list training images only"
        )
    wanted = set(names)
    return Subset(whole, [i for i, name in enumerate(whole.names) if name in wanted])
