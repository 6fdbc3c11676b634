"""Training batches. What a batch holds is a pure function of (seed, batch number): a resumed run sees the same ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segproto.data.augment import Normalise, augment
from segproto.data.base import SegmentationDataset
from segproto.data.batch import Batch
from segproto.data.config import AugmentConfig
from segproto.data.decoded import Decoded
from segproto.errors import DataError, plain
from segproto.prototypes.labels import IGNORE_INDEX

_ORDER, _AUGMENT = 0, 1  # two streams of random numbers from one seed


def _generator(seed: int, stream: int, index: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, stream, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)


@lru_cache(maxsize=4)
def _epoch_order(seed: int, size: int, epoch: int) -> tuple[int, ...]:
    order: list[int] = torch.randperm(size, generator=_generator(seed, _ORDER, epoch)).tolist()
    return tuple(order)


def sample_order(seed: int, size: int, start: int, stop: int) -> list[int]:
    """Which sample stands at each position ``start .. stop - 1`` of the endless training sequence.

    Epoch ``e`` covers positions ``e size .. (e + 1) size - 1`` with a permutation drawn from (seed, e).

    Args:
        seed: of the run, >= 0.
        size: samples in the data set.
        start: first position.
        stop: one past the last.
    """
    return [_epoch_order(seed, size, p // size)[p % size] for p in range(start, stop)]


class _Item(NamedTuple):
    image: Tensor
    mask: Tensor
    name: str
    complaints: tuple[str, ...]


@dataclass
class _Positions(Dataset[_Item]):
    """The endless sequence as a map from position to augmented sample; errors travel as text to the main process."""

    dataset: SegmentationDataset
    config: AugmentConfig
    normalisation: Normalise
    seed: int
    skip: bool
    decoded: Decoded | None

    def __getitem__(self, position: int) -> _Item:
        complaints: list[str] = []
        for at in range(position, position + len(self.dataset)):
            (index,) = sample_order(self.seed, len(self.dataset), at, at + 1)
            try:
                sample = (self.decoded or self.dataset)[index]
            except DataError as error:
                complaints.append(str(error))
                if not self.skip:
                    break
                continue
            generator = _generator(self.seed, _AUGMENT, position)
            image, mask = augment(
                sample.image, sample.mask, self.config, generator, self.normalisation, levels=self.dataset.levels
            )
            return _Item(image, mask, sample.name, tuple(complaints))
        return _Item(torch.empty(0), torch.empty(0), "", tuple(complaints))


class _Collated(NamedTuple):
    images: Tensor
    masks: Tensor
    names: tuple[str, ...]
    complaints: tuple[str, ...]
    failed: bool


def _collate(items: list[_Item]) -> _Collated:
    complaints = tuple(line for sample in items for line in sample.complaints)
    if any(not sample.name for sample in items):
        return _Collated(torch.empty(0), torch.empty(0), (), complaints, True)
    height, width = (max(sample.mask.shape[d] for sample in items) for d in (0, 1))
    images, masks = [], []
    for sample in items:  # sizes differ only without a crop
        padding = (0, width - sample.mask.shape[1], 0, height - sample.mask.shape[0])
        images.append(F.pad(sample.image, padding))
        masks.append(F.pad(sample.mask, padding, value=IGNORE_INDEX))
    return _Collated(torch.stack(images), torch.stack(masks), tuple(i.name for i in items), complaints, False)


def _positions(batch_size: int, start: int, stop: int | None, rank: int, world: int) -> Iterator[list[int]]:
    batch = start
    while stop is None or batch < stop:
        first = (batch * world + rank) * batch_size
        yield list(range(first, first + batch_size))
        batch += 1


class _BatchPositions:
    """A batch sampler that can be iterated (and pickled) with or without an end."""

    def __init__(self, *settings: int, stop: int | None) -> None:
        self.batch_size, self.start, self.rank, self.world = settings
        self.stop = stop

    def __iter__(self) -> Iterator[list[int]]:
        return _positions(self.batch_size, self.start, self.stop, self.rank, self.world)


def train_batches(
    dataset: SegmentationDataset,
    augment: AugmentConfig,
    *,
    normalisation: Normalise,
    seed: int,
    batch_size: int,
    start: int = 0,
    stop: int | None = None,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
    on_error: Literal["skip", "fail"] = "fail",
    decoded: Decoded | None = None,
) -> Iterator[Batch]:
    """Augmented, normalised batches ``start .. stop - 1`` (without an end if ``stop`` is None).

    Batch k of process r holds the positions ``(k world + r) batch_size ...`` of the endless sequence, and each sample's
    augmentation is drawn from (seed, position): neither workers nor an interruption change anything.

    Args:
        dataset: training images.
        augment: random changes.
        normalisation: pixels (N, h, w) to float.
        seed: of the run, >= 0.
        batch_size: samples per process and batch; images of unlike size (no crop) are padded to the largest.
        start: first batch.
        stop: one past the last batch.
        rank: this process.
        world: number of processes.
        workers: loading processes; 0 = this one.
        pin_memory: page-locked memory, for copies to a GPU.
        on_error: an unreadable file raises (``fail``), or gives its place to the next readable sample with one
            warning a file (``skip``).
        decoded: keeps images of ``dataset`` that were read; loading processes keep their own.

    Raises:
        DataError: an unreadable file with ``on_error="fail"``, or no readable file at all.
    """
    loader = DataLoader(
        _Positions(dataset, augment, normalisation, seed, on_error == "skip", decoded),
        batch_sampler=_BatchPositions(batch_size, start, rank, world, stop=stop),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
    )
    warned: set[str] = set()
    for batch in loader:
        if batch.failed:
            raise DataError(batch.complaints[-1])
        for line in batch.complaints:
            if line not in warned:
                warned.add(line)
                warnings.warn(f"skipped in training (data.on_error=skip): {plain(line)}", stacklevel=2)
        yield Batch(masks=batch.masks, images=batch.images, names=batch.names)
