"""ISBI-2012 neuronal membranes: 30 slices, split 20/10 at random as published."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from segproto.data.base import ClassTable, Sample, SegmentationDataset
from segproto.data.kind import DataKind
from segproto.data.labels import LabelMap
from segproto.data.pairs import PairDataset, find_pairs
from segproto.data.roots import data_root
from segproto.data.tiff import open_tiff, read_array
from segproto.errors import DataError

if TYPE_CHECKING:
    from segproto.data.config import DataConfig

VOLUME, VOLUME_LABELS = "train-volume.tif", "train-labels.tif"
# 0 is membrane; the stacks store cell interior as 255, PNG copies as 1. There is no void.
LABELS = LabelMap(ClassTable(("membrane", "cell"), ((213, 94, 0), (86, 180, 233))), {0: 0, 1: 1, 255: 1})


def val_slices(count: int, seed: int) -> list[int]:
    """The validation slices: a third of the stack, without replacement, by NumPy's legacy generator.

    Seed 42 of 30 slices gives the published {0, 8, 9, 12, 15, 17, 23, 24, 27, 28} (Porta et al. 2025, data code).
    """
    drawn = np.random.RandomState(seed).choice(count, count // 3, replace=False)
    return sorted(int(i) for i in drawn)


def open_em(config: DataConfig, split: str) -> SegmentationDataset:
    """One split of the stacks ``train-volume.tif``/``train-labels.tif``, or of folders of slices in stack order.

    Raises:
        DataError: if neither layout is complete.
    """
    root = data_root(config)
    if (root / VOLUME).is_file():
        volume, labels = _read_stack(root / VOLUME), _read_stack(root / VOLUME_LABELS)
        if volume.shape != labels.shape:
            raise DataError(f"{root / VOLUME_LABELS}: shape {labels.shape} differs from the volume's {volume.shape}")
        chosen = _indices(len(volume), config.split_seed, split)
        return StackDataset(split, root, volume, labels, chosen)
    if not (root / config.images).is_dir():
        raise DataError(f"{root}: holds neither {VOLUME} and {VOLUME_LABELS} nor a folder {config.images!r} of slices")
    pairs = find_pairs(root / config.images, root / (config.labels or "labels"))
    names = list(pairs.images)
    chosen = _indices(len(names), config.split_seed, split)
    return PairDataset(split, [names[i] for i in chosen], pairs, LABELS)


def _indices(count: int, seed: int, split: str) -> list[int]:
    val = set(val_slices(count, seed))
    return [i for i in range(count) if (i in val) == (split == "val")]


def _read_stack(path: Path) -> NDArray[np.uint8]:
    with open_tiff(path) as tiff:
        stack = read_array(tiff, stack=True)
    if stack.ndim != 3 or stack.dtype != np.uint8:
        raise DataError(f"{path}: expected an 8-bit stack (slices, height, width), got {stack.dtype} {stack.shape}")
    return stack


class StackDataset(SegmentationDataset):
    """Slices of the two stacks; names are the slice numbers ``00`` .. ``29``."""

    def __init__(
        self,
        split: str,
        root: Path,
        volume: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        slices: Sequence[int],
    ) -> None:
        self.split = split
        self.names = tuple(f"{i:02d}" for i in slices)
        self.classes = LABELS.table
        self._root = root
        self._volume, self._labels = volume[list(slices)], labels[list(slices)]

    def __getitem__(self, index: int) -> Sample:
        image = torch.from_numpy(self._volume[index]).expand(3, -1, -1).contiguous()
        where = f"{self._root / VOLUME_LABELS} slice {self.names[index]}"
        mask = LABELS.apply(self._labels[index].astype(np.int64), where)
        return Sample(image, torch.from_numpy(mask), self.names[index])

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.names).encode())
        digest.update(np.ascontiguousarray(self._volume).tobytes())
        digest.update(np.ascontiguousarray(self._labels).tobytes())
        return digest.hexdigest()[:16]


EM = DataKind(
    name="em",
    title="ISBI-2012 membranes: the two TIFF stacks, or folders of PNGs",
    where="https://imagej.net/events/isbi-2012-segmentation-challenge",
    terms="terms on that page; cite its paper",
    open=open_em,
)
