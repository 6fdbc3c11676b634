"""A data set with some of its classes made one, or under other names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import torch

from segproto.data.base import ClassTable, SegmentationDataset, label_dtype
from segproto.data.relabelled import Relabelled
from segproto.errors import DataError
from segproto.prototypes.labels import IGNORE_INDEX


class MergedClasses(Relabelled):
    """Another data set's images; merged classes come first, in the order given, then the others in theirs.

    Args:
        dataset: the other data set.
        merge: new name to the names it stands for.

    Raises:
        DataError: a name that is no class, or one merged twice.
    """

    def __init__(self, dataset: SegmentationDataset, merge: Mapping[str, Sequence[str]]) -> None:
        self.merge = {new: tuple(old) for new, old in merge.items()}
        names, colours = dataset.classes.names, dataset.classes.colours
        members = [old for group in self.merge.values() for old in group]
        for old in members:
            require_class("data.merge", old, names)
            if members.count(old) > 1:
                raise DataError(f"data.merge: {old!r} is merged twice; name it once")
        unmerged = [name for name in names if name not in members]
        new_names = [*self.merge, *unmerged]
        require_different("data.merge", new_names)
        first = [names.index(group[0]) if group else 0 for group in self.merge.values()]
        colour = [colours[i] for i in [*first, *(names.index(name) for name in unmerged)]]
        table = torch.full((max(256, len(names)),), IGNORE_INDEX, dtype=label_dtype(len(new_names)))
        for index, name in enumerate(names):
            group = next((i for i, old in enumerate(self.merge.values()) if name in old), None)
            table[index] = new_names.index(name) if group is None else group
        super().__init__(dataset, ClassTable(tuple(new_names), tuple(colour)), table)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self.whole.fingerprint, self.merge)).encode()).hexdigest()[:16]


class RenamedClasses(Relabelled):
    """Another data set's images and classes, some of these under other names.

    Args:
        dataset: the other data set.
        rename: old names to new ones.

    Raises:
        DataError: a name that is no class, or that two classes would have.
    """

    def __init__(self, dataset: SegmentationDataset, rename: Mapping[str, str]) -> None:
        self.rename = dict(rename)
        for old in self.rename:
            require_class("data.rename", old, dataset.classes.names)
        names = [self.rename.get(name, name) for name in dataset.classes.names]
        require_different("data.rename", names)
        table = torch.arange(max(256, len(names)), dtype=label_dtype(len(names)))
        super().__init__(dataset, ClassTable(tuple(names), dataset.classes.colours, dataset.classes.values), table)

    @property
    def fingerprint(self) -> str:
        return self.whole.fingerprint  # the same masks, in the same numbers


def require_class(setting: str, name: str, names: Sequence[str]) -> None:
    """Refuses a name in a setting that is no class."""
    if name not in names:
        near = get_close_matches(name, names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{setting}: {name!r} is no class of {', '.join(names)}{hint}")


def require_different(setting: str, names: Sequence[str]) -> None:
    """Refuses a setting by which two classes would have one name."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{setting}: two classes would be called {twice!r}; give one of them another name")


class MoreClasses(Relabelled):
    """Another data set's images in a larger table of classes: those of the data by name, and others that none shows.

    Args:
        whole: the other data set.
        classes: the larger table.

    Raises:
        DataError: a class of the data is not in it.
    """

    def __init__(self, whole: SegmentationDataset, classes: ClassTable) -> None:
        for name in whole.classes.names:
            require_class("the model's classes", name, classes.names)
        table = torch.full((max(256, whole.classes.num_classes),), IGNORE_INDEX, dtype=label_dtype(classes.num_classes))
        for index, name in enumerate(whole.classes.names):
            table[index] = classes.names.index(name)
        super().__init__(whole, classes, table)

    @property
    def fingerprint(self) -> str:
        return self.whole.fingerprint  # the same pixels in the same classes: what is cached of them stays valid
