"""A data set with some of its classes made one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import torch

from segproto.data.base import IGNORE_INDEX, ClassTable, SegmentationDataset, label_dtype
from segproto.data.relabelled import Relabelled
from segproto.errors import DataError


class MergedClasses(Relabelled):
    """Another data set's images; merged classes come first, in the order given, then the others in theirs.

    Args:
        whole: the other data set.
        merge: new name to the names it stands for.

    Raises:
        DataError: a name that is no class, or one merged twice.
    """

    def __init__(self, whole: SegmentationDataset, merge: Mapping[str, Sequence[str]]) -> None:
        self.merge = {new: tuple(old) for new, old in merge.items()}
        names, colours = whole.classes.names, whole.classes.colours
        members = [old for group in self.merge.values() for old in group]
        for old in members:
            if old not in names:
                near = get_close_matches(old, names, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise DataError(f"data.merge: {old!r} is no class of {', '.join(names)}{hint}")
            if members.count(old) > 1:
                raise DataError(f"data.merge: {old!r} is merged twice; name it once")
        rest = [name for name in names if name not in members]
        new_names = [*self.merge, *rest]
        if len(set(new_names)) < len(new_names):
            twice = next(n for n in new_names if new_names.count(n) > 1)
            raise DataError(f"data.merge: two classes would be called {twice!r}; give the merged one another name")
        first = [names.index(group[0]) if group else 0 for group in self.merge.values()]
        colour = [colours[i] for i in [*first, *(names.index(name) for name in rest)]]
        table = torch.full((max(256, len(names)),), IGNORE_INDEX, dtype=label_dtype(len(new_names)))
        for index, name in enumerate(names):
            group = next((i for i, old in enumerate(self.merge.values()) if name in old), None)
            table[index] = new_names.index(name) if group is None else group
        super().__init__(whole, ClassTable(tuple(new_names), tuple(colour)), table)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self.whole.fingerprint, self.merge)).encode()).hexdigest()[:16]
