"""Some of a data set's images, chosen by a list of names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.data.pairs import read_list
from segproto.data.subset import Subset
from segproto.errors import DataError
from segproto.model.features import BackboneFeatures


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
    names, all_names = read_list(path), set(whole.names)
    unknown = [name for name in names if name not in all_names]
    if unknown:
        others = f" and {len(unknown) - 1} others" if len(unknown) > 1 else ""
        raise DataError(
            f"{path}: {unknown[0]!r}{others} not among the {len(all_names)} training images "
            f"(which have names such as {whole.names[0]!r}); list training images only"
        )
    wanted = set(names)
    return Subset(whole, [i for i, name in enumerate(whole.names) if name in wanted])
