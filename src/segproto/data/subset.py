"""Some of a data set's images: chosen by their indices, or because they can be read."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from segproto.data.base import Sample, SegmentationDataset
from segproto.data.derived import Derived
from segproto.errors import DataError, plain
from segproto.prototypes.labels import IGNORE_INDEX


class Subset(Derived):
    """Images ``indices`` of another data set, in that order.

    Args:
        dataset: the other data set.
        indices: of its images.
    """

    def __init__(self, dataset: SegmentationDataset, indices: Sequence[int]) -> None:
        super().__init__(dataset)
        self.indices = tuple(indices)
        self.names = tuple(dataset.names[i] for i in self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[self.indices[index]]

    def source_index(self, index: int) -> int:
        return self.indices[index]

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.whole.fingerprint, self.indices)).encode())
        return digest.hexdigest()[:16]


def readable(dataset: SegmentationDataset, progress: Callable[[int, int], None] | None = None) -> list[int]:
    """Reads every image and mask once; the indices of those that can be read, with a warning for each of the others.

    Args:
        dataset: at native size.
        progress: called with (images read, images in all).
    """
    readable_indices = []
    for index in range(len(dataset)):
        try:
            dataset[index]
            readable_indices.append(index)
        except DataError as error:
            warnings.warn(f"left out of training (data.on_error=skip): {plain(error)}", stacklevel=2)
        if progress is not None:
            progress(index + 1, len(dataset))
    return readable_indices


def keep_only(dataset: SegmentationDataset, indices: Sequence[int]) -> SegmentationDataset:
    """The data set itself if ``indices`` are all of it (its caches stay valid), else the subset.

    Raises:
        DataError: no image is left.
    """
    if not indices:
        raise DataError(f"none of the {len(dataset)} {dataset.split} images can be read: see segproto data verify")
    return dataset if len(indices) == len(dataset) else Subset(dataset, indices)


def spread(count: int, wanted: int | None) -> list[int]:
    """``wanted`` indices of 0..count-1, the first of as many stretches of equal length; all if None or not so many."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return [i * count // wanted for i in range(wanted)]


def few(
    dataset: SegmentationDataset, fraction: float | None, images_per_class: int | None, seed: int
) -> SegmentationDataset:
    """Some of the images, drawn at random: a part of them, or as many as show each class; or the part of these.

    Args:
        dataset: at native size; every mask is read once for ``images_per_class``.
        fraction: (0, 1]; at least one image stays.
        images_per_class: K.
        seed: of both draws. A larger fraction or K holds the images of a smaller one.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    order = generator.permutation(len(dataset))
    if images_per_class is not None:
        order = order[until_each_class(class_presence(dataset)[order], images_per_class)]
    if fraction is not None:
        order = order[: max(1, round(fraction * len(order)))]
    return keep_only(dataset, sorted(order.tolist()))


def class_presence(dataset: SegmentationDataset) -> NDArray[np.bool_]:
    """(N, C): whether an image's mask shows a class."""
    presence = np.zeros((len(dataset), dataset.classes.num_classes), bool)
    for index in range(len(dataset)):
        labels = np.unique(dataset[index].mask.numpy())
        presence[index, labels[(labels != IGNORE_INDEX) & (labels < presence.shape[1])]] = True
    return presence


def until_each_class(presence: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """Rows that show every class ``count`` times, or as often as it is shown at all: the first such rows of each class.

    Args:
        presence: (N, C), in the order of the draw.
        count: K.

    Returns:
        (n,) indices, ascending.
    """
    first = presence & (presence.cumsum(0) <= count)
    chosen: NDArray[np.int64] = np.flatnonzero(first.any(1))
    return chosen
