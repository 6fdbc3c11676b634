"""Many images: reading and writing overlap with the network, which sees several small images of one size at once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from segproto.data.picture import Picture
from segproto.model.predict import OVERLAP, chosen_scales, chosen_window, logit_bands
from segproto.model.segmenter import Segmenter
from segproto.model.windows import Maps, Scale, batch_pixels, field_logits, sent, view_fields

CHUNK = 16
WAITING = 2**27  # bytes of images that were read and wait
READERS = max(1, min(4, os.cpu_count() or 1))

T = TypeVar("T")
K = TypeVar("K")


def chunk_size(count: int) -> int:
    """Of ``count`` images, how many neighbours may go through the network together, at most :data:`CHUNK`.

    A network may give the last bit of an image otherwise beside others. Each image therefore has the same neighbours
    whatever the number of processes: whole chunks are shared out, and of few images they are small.
    """
    return max(1, min(CHUNK, count // 32))


def chunked(count: int, rank: int = 0, world: int = 1) -> list[int]:
    """Which of ``count`` images are this process's: those of every ``world``-th chunk."""
    size = chunk_size(count)
    return [i for start in range(rank * size, count, world * size) for i in range(start, min(start + size, count))]


def spare_worker(device: torch.device) -> int:
    """One thread to work beside the network, none where the network has every core of a CPU already."""
    return 0 if device.type == "cpu" and torch.get_num_threads() >= (os.cpu_count() or 1) else 1


def in_order(
    jobs: Iterable[Callable[[], T]], workers: int, ahead: int, weigh: Callable[[T], int] | None = None
) -> Iterator[T]:
    """What the jobs return, in their order; they run in threads, at most ``ahead`` before the one that is asked for.

    An error is raised in the place of its result, and those not begun are dropped. Without workers each job is done
    when it is asked for.

    Args:
        jobs: to do.
        workers: threads.
        ahead: results that wait at most.
        weigh: bytes of a result; so few wait that, each as heavy as the last, they are at most :data:`WAITING` bytes.
    """
    if workers == 0:
        yield from (job() for job in jobs)
        return
    pool, waiting, most = ThreadPoolExecutor(workers), deque[Future[T]](), 1  # the first tells how heavy they are
    try:
        for job in jobs:
            waiting.append(pool.submit(copy_context().run, job))
            while len(waiting) > (ahead if weigh is None else min(ahead, most)):
                result = waiting.popleft().result()
                most = 1 if weigh is None else max(1, WAITING // max(1, weigh(result)))
                yield result
                del result
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Look(Generic[K]):
    """An image that was read.

    Attributes:
        key: what the caller knows it by.
        chunk: images of one chunk may go through the network together.
        picture: the image.
        scales: at which it is seen.
        pixels: (N, H, W), if it is seen at once; None = through windows, which are read one by one.
    """

    key: K
    chunk: int
    picture: Picture
    scales: Sequence[Scale]
    pixels: Tensor | None

    def goes_with(self, other: Look[K], most: int) -> bool:
        """Whether both can be in one batch, of at most ``most`` pixels an image."""
        if self.pixels is None or other.pixels is None or self.chunk != other.chunk or self.scales != other.scales:
            return False
        same = self.pixels.shape == other.pixels.shape and self.pixels.dtype == other.pixels.dtype
        return same and self.picture.height * self.picture.width <= most


def look(
    segmenter: Segmenter,
    picture: Picture,
    key: K,
    chunk: int,
    *,
    window: int | None = None,
    scales: Sequence[Scale] | None = None,
) -> Look[K]:
    """Reads an image as the network will see it.

    Args:
        segmenter: the network.
        picture: of it.
        key: what the caller knows it by.
        chunk: the number of the chunk it is in.
        window: as :class:`segproto.model.predict.Views`.
        scales: the same.
    """
    scales = chosen_scales(segmenter, picture, window, scales)
    size = (picture.height, picture.width)
    windows = chosen_window(segmenter, size, window, scales)
    return Look(key, chunk, picture, scales, picture.read(0, 0, *size) if windows is None else None)


def logits_of(
    segmenter: Segmenter,
    looks: Iterable[Look[K]],
    *,
    window: int | None = None,
    overlap: float = OVERLAP,
    flip: bool = False,
    maps: Maps | None = None,
) -> Iterator[tuple[Look[K], Iterator[Tensor]]]:
    """Each image with the bands of its logits, in order; the network has run when an image is given out.

    Neighbours of one size go through it together. Call it under :func:`segproto.model.windows.evaluating`. The bands
    may be taken in another thread, but not those of images without ``pixels``, for which the network runs again.

    Args:
        segmenter: the model.
        looks: the images.
        window: as :class:`segproto.model.predict.Views`; also ``overlap`` and ``flip``.
        overlap: of windows.
        flip: also mirrored.
        maps: as :func:`segproto.model.predict.logit_bands`.
    """
    device = next(segmenter.parameters()).device

    def run(batch: Sequence[Look[K]]) -> Iterator[tuple[Look[K], Iterator[Tensor]]]:
        images = torch.stack([one.pixels for one in batch if one.pixels is not None])
        fields = view_fields(segmenter, sent(images, device), batch[0].scales, flip, maps)
        for one, views in zip(batch, fields, strict=True):
            yield one, field_logits(views, (0, one.picture.height))

    batch: list[Look[K]] = []
    for one in looks:
        if batch and not batch[0].goes_with(one, batch_pixels(device) // (len(batch) + 1)):
            yield from run(batch)
            batch = []
        if one.pixels is not None:
            batch.append(one)
        else:
            options = {"window": window, "overlap": overlap, "scales": one.scales, "flip": flip, "maps": maps}
            yield one, logit_bands(segmenter, one.picture, **options)  # type: ignore[arg-type]
    if batch:
        yield from run(batch)
