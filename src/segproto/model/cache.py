"""Features of a frozen backbone on disk, so that a head trains in minutes on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from segproto.data.base import Sample, SegmentationDataset
from segproto.encoders.base import Encoder
from segproto.errors import ConfigError
from segproto.files import tag_cache, write_tensors
from segproto.model.fingerprint import backbone_hash
from segproto.model.together import in_order

SHARD = 16  # images per file: what a killed run loses at most
BATCH_PIXELS = 1 << 20  # images go through the backbone together up to this many pixels
ADVICE = "free some space, or set SEGPROTO_CACHE to another disk; what is done is kept"
RAM_BYTES = 2 << 30  # a smaller cache is read into memory, a larger one stays mapped
DTYPES = {"float16": torch.float16, "float32": torch.float32}


class FeatureCache:
    """``encoder.backbone_features`` of every image of a data set, and of its mirror image if asked.

    Made by :meth:`open`. Only what commutes with the cache is offered: the flip, whose features are those of the
    flipped image, exactly. Any other augmentation needs the images.

    Attributes:
        folder: the files, one a :data:`SHARD` images.
        flips: whether mirrored images are there.
    """

    def __init__(self, folder: Path, count: int, flips: bool) -> None:
        self.folder = folder
        self.flips = flips
        self._count = count
        shards = [shard_path(folder, first) for first in range(0, count, SHARD)]
        self._memory: dict[str, Tensor] = {}
        if sum(path.stat().st_size for path in shards) < RAM_BYTES:
            for path in shards:
                # cloned: load_file maps the file, and pages would be read again and again under memory pressure
                self._memory.update({key: value.clone() for key, value in load_file(path).items()})

    @classmethod
    def open(
        cls,
        encoder: Encoder,
        dataset: SegmentationDataset,
        root: Path,
        *,
        device: torch.device | str = "cpu",
        flips: bool = True,
        dtype: Literal["float16", "float32"] = "float16",
        progress: Callable[[int, int], None] | None = None,
    ) -> FeatureCache:
        """Reads the cache of this backbone and data set, and makes what is missing of it (:func:`make_cache`).

        Args: as there.
        """
        folder = make_cache(encoder, dataset, root, device=device, flips=flips, dtype=dtype, progress=progress)
        return cls(folder, len(dataset), flips)

    def __len__(self) -> int:
        return self._count

    def get(self, index: int, flipped: bool = False) -> Tensor:
        """The features of one image.

        Args:
            index: as in the data set.
            flipped: those of the mirrored image.

        Returns:
            float32 (Db, h, w), on the CPU; its own copy.

        Raises:
            IndexError: no such image.
            ConfigError: mirrored features of a cache made without flips.
        """
        if not 0 <= index < self._count:
            raise IndexError(f"image {index} of {self._count}")
        if flipped and not self.flips:
            raise ConfigError(f"{self.folder}: made without mirrored images; open the cache with flips")
        key = key_of(index, flipped)
        if self._memory:
            return self._memory[key].to(torch.float32, copy=True)
        with safe_open(shard_path(self.folder, index), "pt") as file:
            value: Tensor = file.get_tensor(key)
        return value.float()


def make_cache(
    encoder: Encoder,
    dataset: SegmentationDataset,
    root: Path,
    *,
    device: torch.device | str = "cpu",
    flips: bool = True,
    dtype: Literal["float16", "float32"] = "float16",
    progress: Callable[[int, int], None] | None = None,
    rank: int = 0,
    world: int = 1,
) -> Path:
    """Makes what is missing of the cached features of a backbone and a data set.

    A killed run continues where it stopped. The folder under ``root`` is named after the backbone's hash, the
    data set's fingerprint, the flips and the number format; anything else changing leaves it valid.

    Args:
        encoder: with a frozen backbone and without MSC; moved to ``device``, left in its mode.
        dataset: its images, at native size.
        root: where caches live.
        device: where features are computed.
        flips: compute mirrored images, too.
        dtype: number format on disk; float16 keeps 3 digits (relative error 2e-4 on a ViT).
        progress: called with (images done, images in all), after every file.
        rank: this process makes every ``world``-th file.
        world: processes; each calls this.

    Returns:
        The folder.

    Raises:
        ConfigError: the backbone is not frozen, MSC is on, or features exceed float16.
        DataError: the disk is full or cannot be written, or an image cannot be read.
    """
    refuse(encoder)
    folder, count = cache_folder(encoder, dataset, root, flips, dtype), len(dataset)
    encoder.to(device)
    was_training = encoder.training
    encoder.eval()
    try:
        tag_cache(folder)
        for first in range(rank * SHARD, count, world * SHARD):
            last = min(first + SHARD, count)
            path = shard_path(folder, first)
            if not intact(path, (last - first) * (1 + flips)):
                samples = in_order((partial(dataset.__getitem__, i) for i in range(first, last)), 1, 2)
                tensors = encode(encoder, samples, first, flips, DTYPES[dtype], torch.device(device))
                write_tensors(path, tensors, None, advice=ADVICE)
            if progress is not None:
                progress(min(first + world * SHARD, count), count)
    finally:
        encoder.train(was_training)
    return folder


def cache_folder(
    encoder: Encoder, dataset: SegmentationDataset, root: Path, flips: bool, dtype: str = "float16"
) -> Path:
    """Where the features of this backbone and data set lie."""
    parts = (backbone_hash(encoder)[:20], dataset.fingerprint, "flips" if flips else "plain", dtype)
    return Path(root) / "-".join(parts)


def cached(encoder: Encoder, dataset: SegmentationDataset, root: Path, flips: bool) -> bool:
    """Whether the features of all images are there."""
    folder, count = cache_folder(encoder, dataset, root, flips), len(dataset)
    return all(
        intact(shard_path(folder, first), (min(first + SHARD, count) - first) * (1 + flips))
        for first in range(0, count, SHARD)
    )


def refuse(encoder: Encoder) -> None:
    """Encoders whose features must not be cached."""
    if not encoder.backbone_frozen:
        raise ConfigError("features of a backbone that trains cannot be cached: set encoder.frozen=true, or no cache")
    if encoder.config.msc:
        raise ConfigError(f"encoder.msc={encoder.config.msc}: needs the images; features are cached only without MSC")


def key_of(index: int, flipped: bool) -> str:
    """The tensor's name in its file."""
    return f"{index}{'f' if flipped else ''}"


def shard_path(folder: Path, index: int) -> Path:
    """The file that holds an image's features."""
    return folder / f"{index // SHARD:06d}.safetensors"


def intact(path: Path, tensors: int) -> bool:
    """Whether a file is there, readable and complete."""
    if not path.exists():
        return False
    try:
        with safe_open(path, "pt") as file:
            return len(file.keys()) == tensors
    except (OSError, SafetensorError):
        return False


def encode(
    encoder: Encoder, samples: Iterator[Sample], first: int, flips: bool, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Features by key; neighbours of equal size go through the backbone together."""
    tensors: dict[str, Tensor] = {}
    pending: list[tuple[str, Tensor]] = []

    def flush() -> None:
        if pending:
            images = encoder.normalisation(torch.stack([image for _, image in pending]).to(device))
            features = encoder.backbone_features(images).to("cpu", dtype)
            if not features.isfinite().all():
                raise ConfigError(
                    f"features of image {pending[0][0]} leave the range of {dtype}: use float32 for the cache"
                )
            tensors.update(
                {
                    key: value.clone(memory_format=torch.contiguous_format)
                    for (key, _), value in zip(pending, features, strict=True)
                }
            )
            pending.clear()

    with torch.inference_mode():
        for index, sample in enumerate(samples, first):
            for flipped in (False, True) if flips else (False,):
                image = sample.image.flip(-1) if flipped else sample.image
                limit = BATCH_PIXELS // image[0].numel()
                if pending and (pending[0][1].shape != image.shape or len(pending) >= limit):
                    flush()
                pending.append((key_of(index, flipped), image))
        flush()
    return tensors
