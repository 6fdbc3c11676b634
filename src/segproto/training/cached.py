"""Training on cached backbone features: what may be cached, and batches of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.data.batch import Batch
from segproto.data.config import AugmentConfig
from segproto.data.loader import sample_order
from segproto.encoders.config import EncoderConfig
from segproto.encoders.table import NECKS
from segproto.errors import ConfigError
from segproto.model.features import BackboneFeatures
from segproto.prototypes.labels import IGNORE_INDEX, resize_labels

MASK_MEMORY = 1 << 30  # bytes of masks kept in memory; further ones are read each time
FLIPS = 2  # the stream of random numbers for flips (the loader uses 0 and 1)

Size = tuple[int, int]


def require_cacheable(encoder: EncoderConfig, augment: AugmentConfig) -> None:
    """Refuses settings under which a cached feature would not be what the backbone gives.

    Raises:
        ConfigError: naming the setting and the value it must have.
    """
    necks = [kind.name for kind in NECKS.values() if not kind.several]  # the cache holds one map per image
    checks = [
        (encoder.frozen, "encoder.frozen", encoder.frozen, "true"),
        (not encoder.msc, "encoder.msc", encoder.msc, "[]"),
        (not encoder.neck_kind.several, "encoder.neck", encoder.neck, " or ".join(necks)),
        (encoder.auxiliary is None, "encoder.auxiliary", encoder.auxiliary, "null"),
        (augment.crop is None, "data.augment.crop", augment.crop, "null"),
        (augment.scale == (1, 1), "data.augment.scale", list(augment.scale), "[1, 1]"),
        (augment.aspect == (1, 1), "data.augment.aspect", list(augment.aspect), "[1, 1]"),
        (augment.balance == 0, "data.augment.balance", augment.balance, "0"),
        (augment.brightness == 0, "data.augment.brightness", augment.brightness, "0"),
        (not augment.vertical_flip, "data.augment.vertical_flip", augment.vertical_flip, "false"),
        (not augment.rotate90, "data.augment.rotate90", augment.rotate90, "false"),
    ]
    for allowed, key, value, needed in checks:
        if not allowed:
            shown = str(value).lower() if isinstance(value, bool) else value
            raise ConfigError(
                f"{key} = {shown}: train.cache_features needs {key}={needed}; of all augmentations only "
                "data.augment.flip commutes with the cache"
            )


class CachedBatches:
    """Batches of cached features with their masks: a pure function of (seed, batch number).

    Args:
        dataset: training images, for masks and names.
        cache: their backbone features; those of the mirrored images, too, if ``flip``.
        padded_size: image size (height, width) to the area the grid covers, ``Encoder.padded_size``.
        flip: mirror half of the samples.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        cache: BackboneFeatures,
        padded_size: Callable[[int, int], Size],
        flip: bool,
    ) -> None:
        self.dataset, self.cache, self.padded_size, self.flip = dataset, cache, padded_size, flip
        self._masks: dict[int, Tensor] = {}
        self._bytes = 0

    def batches(
        self, *, seed: int, batch_size: int, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Batches ``start .. stop - 1`` of process ``rank``, in :func:`~segproto.data.loader.train_batches`' order."""
        for number in range(start, stop):
            first = (number * world + rank) * batch_size
            order = sample_order(seed, len(self.dataset), first, first + batch_size)
            flips = [self.flip and mirrored(seed, p) for p in range(first, first + batch_size)]
            yield self._batch(order, flips)

    def _batch(self, indices: Sequence[int], flips: Sequence[bool]) -> Batch:
        chosen = list(zip(indices, flips, strict=True))
        features = [self.cache.get(i, flipped) for i, flipped in chosen]
        masks = [self._mask(i).flip(-1) if flipped else self._mask(i) for i, flipped in chosen]
        stacked, labels = pad_together(features, masks, self.padded_size)
        return Batch(masks=labels, features=stacked, names=tuple(self.dataset.names[i] for i in indices))

    def _mask(self, index: int) -> Tensor:
        if index in self._masks:
            return self._masks[index]
        mask = self.dataset[index].mask
        if self._bytes + mask.numel() <= MASK_MEMORY:
            self._bytes += mask.numel()
            self._masks[index] = mask
        return mask


def mirrored(seed: int, position: int) -> bool:
    """Whether the sample at a position of the endless training sequence is mirrored: a fair coin."""
    return bool(np.random.SeedSequence([seed, FLIPS, position]).generate_state(1)[0] & 1)


def pad_together(
    features: Sequence[Tensor], masks: Sequence[Tensor], padded_size: Callable[[int, int], Size]
) -> tuple[Tensor, Tensor]:
    """Stacks features of unlike grids (padded by zeros) and their masks (padded by void over the padded cells).

    Args:
        features: (D, h, w) each.
        masks: uint8 (H, W) each.
        padded_size: image size to the area its grid covers.

    Returns:
        features float32 (B, D, h', w') and masks int64 (B, H', W') that cover exactly those grids.
    """
    rows, columns = (max(f.shape[d] for f in features) for d in (1, 2))
    areas = [padded_size(m.shape[0], m.shape[1]) for m in masks]
    # The largest grid sets the cell (image pixels); where cells of other sizes differ, their masks are resized to it.
    cell_y = next(a[0] / f.shape[1] for a, f in zip(areas, features, strict=True) if f.shape[1] == rows)
    cell_x = next(a[1] / f.shape[2] for a, f in zip(areas, features, strict=True) if f.shape[2] == columns)
    height, width = round(rows * cell_y), round(columns * cell_x)
    stacked = torch.zeros(len(features), features[0].shape[0], rows, columns)
    labels = torch.empty((len(masks), height, width), dtype=torch.int64)  # of photographs a gigabyte: written once
    for i, (feature, mask, area) in enumerate(zip(features, masks, areas, strict=True)):
        h, w = feature.shape[1:]
        stacked[i, :, :h, :w] = feature
        own = (round(h * cell_y), round(w * cell_x))
        if own != area:
            padding = (0, area[1] - mask.shape[1], 0, area[0] - mask.shape[0])
            padded = F.pad(mask.long(), padding, value=IGNORE_INDEX)
            write_labels(labels[i], resize_labels(padded[None], own)[0])
        else:
            write_labels(labels[i], mask)
    return stacked, labels


def write_labels(target: Tensor, mask: Tensor) -> None:
    """Fills ``target`` (H', W') with a mask (H, W) at its start, and void around it."""
    height, width = mask.shape
    target[:height, :width] = mask
    target[height:] = IGNORE_INDEX
    target[:height, width:] = IGNORE_INDEX
