"""What the values of training images are: measured value ranges, and what a person should know of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segproto.data.bands import chosen_bands, inside_window, knows_inside, open_stored_bands
from segproto.data.base import Sample, SegmentationDataset
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.data.images import orientation
from segproto.data.pixels import PixelRule, Range
from segproto.data.subset import spread
from segproto.errors import DataError
from segproto.prototypes.labels import IGNORE_INDEX

BINS = 65536
ROWS = 1024  # of an image read at once
LOOKED_AT = 16  # training images whose values are looked at before a training
HEADERS = 1000  # and whose orientation is
Progress = Callable[[int, int], None]


def with_measured_range(config: DataConfig, progress: Progress | None = None) -> DataConfig:
    """The same settings with numbers in the place of percentiles, measured once over all training images.

    Args:
        config: of the data.
        progress: called with (images done, images in all).

    Raises:
        DataError: naming the file that cannot be read, or the band that has one value only.
    """
    wanted = config.to_measure
    if wanted is None:
        return config
    open_config = config.model_copy(update={"value_range": "auto"})
    dataset = build_dataset(open_config, "train")
    ranges = measured_ranges(dataset, open_config.pixel_rule, wanted.percentiles, progress)
    if config.bands is None:  # one range for colours, which keep their balance
        ranges = [(min(low for low, _ in ranges), max(high for _, high in ranges))]
    return config.model_copy(update={"value_range": ranges if len(ranges) > 1 else ranges[0]})


def measured_ranges(
    dataset: SegmentationDataset, rule: PixelRule, percentiles: tuple[float, float], progress: Progress | None = None
) -> list[Range]:
    """Per band of the model, the values that so many percent of all pixels with an image are below.

    Args:
        dataset: of files.
        rule: which bands of them.
        percentiles: two, of 0..100.
        progress: as :func:`with_measured_range`.
    """
    paths = [path for path in map(dataset.path, range(len(dataset))) if path is not None]
    if not paths:
        raise DataError("data.value_range = percentiles: these images are no files; give [LOW, HIGH]")
    span = (0.0, float(BINS - 1))
    stored = open_stored_bands(paths[0], rule)
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2 or stored.dtype.kind == "i":
        span = extremes(paths, rule)
    counts: NDArray[np.int64] = np.zeros((rule.count, BINS), np.int64)
    step = (span[1] - span[0]) / (BINS - 1) or 1.0
    for done, path in enumerate(paths, 1):
        for values in bands_of(path, rule):
            for band, of_band in enumerate(values):
                bin_index = np.rint((of_band.astype(np.float64) - span[0]) / step).clip(0, BINS - 1).astype(np.int64)
                counts[band] += np.bincount(bin_index, minlength=BINS)
        if progress is not None:
            progress(done, len(paths))
    ranges = []
    for band, of_counts in enumerate(counts):
        cumulative = of_counts.cumsum() / max(int(of_counts.sum()), 1)
        low, high = (int(np.searchsorted(cumulative, p / 100 - 1e-12)) for p in percentiles)
        low, high = max(low, int(np.flatnonzero(of_counts)[0]) if of_counts.any() else 0), min(high, BINS - 1)
        if low >= high:
            raise DataError(
                f"data.value_range = percentiles: {rule.name(band)} has one value only over the training images "
                f"({span[0] + low * step:g}); give [LOW, HIGH], or leave the band out"
            )
        ranges.append((round(span[0] + low * step, 6), round(span[0] + high * step, 6)))
    return ranges


def bands_of(path: Path, rule: PixelRule) -> Iterator[NDArray[np.generic]]:
    """The stored values (N, pixels) of a file's bands where there is an image, a stretch of rows at a time."""
    stored = open_stored_bands(path, rule)
    chosen = chosen_bands(stored, rule)
    for top in range(0, stored.height, ROWS):
        window = (top, 0, min(top + ROWS, stored.height), stored.width)
        values = stored.read(*window)[list(chosen)]
        yield (
            values[:, inside_window(stored, rule, chosen, window)]
            if knows_inside(stored, rule)
            else values.reshape(len(values), -1)
        )


def extremes(paths: list[Path], rule: PixelRule) -> Range:
    """The least and the largest value of any band."""
    low, high = np.inf, -np.inf
    for path in paths:
        for values in bands_of(path, rule):
            if values.size:
                low, high = min(low, float(values.min())), max(high, float(values.max()))
    if not np.isfinite(high - low):
        raise DataError("data.value_range = percentiles: the training images hold no finite value; give [LOW, HIGH]")
    return low, high


@dataclass
class Seen:
    """What the pixels of some images were.

    Attributes:
        high: of images of 16 bits without a value range, the largest value.
        low: and the least.
        wide: how many they are.
        clipped: pixels at the end of a given value range, of ``values``.
        values: of images with a given value range.
    """

    rule: PixelRule
    high: int = 0
    low: int = 65535
    wide: int = 0
    clipped: int = 0
    values: int = 0
    kinds: set[str] = field(default_factory=set)

    def add(self, sample: Sample) -> None:
        """Takes an image into account."""
        self.kinds.add(str(sample.image.dtype).removeprefix("torch."))
        if self.rule.value_range:
            white = 65535 if sample.image.dtype == torch.uint16 else 255
            values = sample.image.numpy()[:, sample.mask.numpy() != IGNORE_INDEX]
            self.clipped += int(((values == 0) | (values == white)).sum())
            self.values += values.size
        elif sample.image.dtype == torch.uint16:
            values = sample.image.numpy()
            self.wide += 1
            self.low, self.high = min(self.low, int(values.min())), max(self.high, int(values.max()))

    def merge(self, other: Seen) -> None:
        """Takes in what another process saw."""
        self.high, self.low = max(self.high, other.high), min(self.low, other.low)
        self.wide += other.wide
        self.clipped += other.clipped
        self.values += other.values
        self.kinds |= other.kinds

    @property
    def notes(self) -> list[str]:
        """What a person should know, one line each."""
        lines = []
        if self.wide and self.high < BINS // 4:
            bits = max(self.high, 1).bit_length()
            lines.append(
                f"values {self.low}..{self.high} of 65535 in {self.wide} images of 16 bits, which are dark so: set "
                f"data.value_range=[0, {2**bits - 1}] ({bits} bits), or data.value_range=percentiles to measure it"
            )
        if self.values and self.clipped > 0.05 * self.values:
            lines.append(f"{self.clipped / self.values:.0%} of the values are at an end of data.value_range, or beyond")
        return lines


def start_notes(dataset: SegmentationDataset, rule: PixelRule, own: bool) -> tuple[list[str], str]:
    """What to say of training images before the training, and the kind of their pixels (empty for 8 bits).

    Args:
        dataset: the training images.
        rule: how they are read.
        own: a user's own pictures, which may be turned by EXIF.
    """
    seen = Seen(rule)
    for index in spread(len(dataset), LOOKED_AT):
        try:
            seen.add(dataset[index])
        except DataError:  # told where it is read
            continue
        if seen.kinds == {"uint8"}:
            break
    notes = seen.notes
    if own:
        paths = [path for path in map(dataset.path, spread(len(dataset), HEADERS)) if path is not None]
        if line := orientation_note(paths):
            notes.append(line)
    return notes, "" if seen.kinds <= {"uint8"} else sorted(seen.kinds)[-1]


SEE = "see that the masks were drawn on these"


def orientation_note(paths: Sequence[Path], so: str = SEE) -> str | None:
    """A line about pictures that EXIF says to turn, and what follows (``so``); None without such."""
    return orientation_line([str(path) for path in turned_among(paths)], so)


def turned_among(paths: Sequence[Path]) -> list[Path]:
    """The pictures that EXIF says to turn; those that cannot be read are told where they are."""
    turned = []
    for path in paths:
        try:
            if orientation(path) > 1:
                turned.append(path)
        except DataError:
            continue
    return turned


def orientation_line(turned: Sequence[str], so: str = SEE) -> str | None:
    """The line of :func:`orientation_note` about pictures of these names."""
    if not turned:
        return None
    return (
        f"EXIF orientation in {len(turned)} of the images, first {turned[0]}; it is not applied: pixels count as they "
        f"are stored, so {so}"
    )
