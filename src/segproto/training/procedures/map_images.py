"""The primitive of all procedures: visit every image of a data set, shared between processes, resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from pathlib import Path
from typing import BinaryIO

from safetensors.torch import save as to_bytes
from torch import Tensor

from segproto.data.base import Sample, SegmentationDataset
from segproto.errors import WeightsError
from segproto.files import fresh
from segproto.model.artefact import read_tensors
from segproto.model.together import in_order
from segproto.training.progress import current

AHEAD = 2  # images read before they are asked for
SUFFIX = ".safetensors"


def fold_images(dataset: SegmentationDataset, *, rank: int = 0, world: int = 1, title: str = "images") -> Iterator[int]:
    """This process's share of the image indices (every ``world``-th, ascending), with a progress bar.

    For reductions that keep a running state; the caller merges the states of all processes.
    """
    indices = range(rank, len(dataset), world)
    with current().bar(title, len(indices)) as bar:
        for done, index in enumerate(indices):
            yield index
            bar(done + 1, len(indices))


def fold_samples(
    dataset: SegmentationDataset, *, rank: int = 0, world: int = 1, title: str = "images"
) -> Iterator[tuple[int, Sample]]:
    """:func:`fold_images` with the images themselves, each read once, while the one before is worked on."""
    indices = range(rank, len(dataset), world)
    samples = in_order((partial(dataset.__getitem__, index) for index in indices), 1, AHEAD)
    yield from zip(fold_images(dataset, rank=rank, world=world, title=title), samples, strict=True)


def save_tensors(tensors: dict[str, Tensor], file: BinaryIO) -> None:
    """Tensors on the CPU as safetensors."""
    file.write(to_bytes(tensors))


def map_images(
    dataset: SegmentationDataset,
    fn: Callable[[int, Sample], Mapping[str, Tensor]],
    out: Path,
    *,
    rank: int = 0,
    world: int = 1,
    threads: int = 0,
    title: str = "images",
    suffix: str = SUFFIX,
    save: Callable[[dict[str, Tensor], BinaryIO], None] = save_tensors,
) -> int:
    """Writes ``fn``'s tensors of every image to ``out/<image name><suffix>``.

    Each file is written whole or not at all, and images whose file exists are skipped: an interrupted map goes on
    where it was. ``out`` must therefore be a folder of one purpose, emptied when what ``fn`` depends on changes.

    Args:
        dataset: the images.
        fn: called as ``fn(index, sample)``; tensors of any device.
        out: the folder, made if needed.
        rank: this process.
        world: processes that share the work.
        threads: that work on an image each, ``fn`` included; 0 = this one alone.
        title: of the progress bar.
        suffix: of the files.
        save: writes tensors (on the CPU) to a file.

    Returns:
        How many images this process computed (not skipped).
    """

    def compute(index: int) -> bool:
        path = result_path(out, dataset.names[index], suffix)
        if path.exists():
            return False
        tensors = {key: value.detach().cpu().contiguous() for key, value in fn(index, dataset[index]).items()}
        with fresh(path, None) as file:
            save(tensors, file)
        return True

    indices = range(rank, len(dataset), world)
    computed = in_order((partial(compute, index) for index in indices), threads, threads)
    return sum(
        done for _, done in zip(fold_images(dataset, rank=rank, world=world, title=title), computed, strict=True)
    )


def result_path(out: Path, name: str, suffix: str = SUFFIX) -> Path:
    """Where :func:`map_images` puts the result of the image ``name``."""
    return out / f"{name}{suffix}"


def load_result(out: Path, name: str, keys: Set[str]) -> dict[str, Tensor]:
    """The tensors :func:`map_images` wrote for the image ``name``, with at least these keys.

    Raises:
        WeightsError: the file is gone or damaged.
    """
    path = result_path(out, name)
    tensors = read_tensors(path)
    if missing := sorted(keys - tensors.keys()):
        raise WeightsError(f"{path}: has no {missing[0]}; remove it, and --resume makes it again")
    return tensors
