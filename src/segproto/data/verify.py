"""Checking every image and mask of a data set before any training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segproto.data.base import ClassTable, SegmentationDataset
from segproto.data.build import SPLITS, build_dataset
from segproto.data.coarse import coarse_line
from segproto.data.config import DataConfig
from segproto.data.measure import Seen, orientation_line, turned_among, with_measured_range
from segproto.data.pairs import PairDataset
from segproto.data.portion import ALONE, Portion
from segproto.data.verify_folder import gathered, look, unlisted_note, values_line, void_object
from segproto.errors import DataError
from segproto.prototypes.labels import IGNORE_INDEX


@dataclass
class SplitSummary:
    """What one split holds.

    Attributes:
        images: number of images.
        readable: of these, pairs without a problem.
        pixels: int64 (C,): pixels of each class.
        void: void pixels.
        present: int64 (C,): images that show each class.
        sizes: (height, width) to number of images.
    """

    images: int
    pixels: NDArray[np.int64]
    present: NDArray[np.int64]
    readable: int = 0
    void: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)

    def add(self, other: SplitSummary) -> None:
        """Takes in what another process counted of the same split."""
        self.pixels += other.pixels
        self.present += other.present
        self.readable += other.readable
        self.void += other.void
        self.sizes += other.sizes

    @property
    def shares(self) -> NDArray[np.float64]:
        """Each class's share of the labelled pixels, (C,), summing to 1."""
        shares: NDArray[np.float64] = self.pixels / max(int(self.pixels.sum()), 1)
        return shares

    @property
    def void_share(self) -> float:
        """Share of all pixels that are void."""
        return self.void / max(self.void + int(self.pixels.sum()), 1)


@dataclass
class VerifyReport:
    """All problems of a data set, one line each, and what its splits hold.

    Attributes:
        problems: empty if everything is in order.
        notes: what is odd but stops nothing, one line each.
        classes: the class table, None if it could not be read.
        splits: by name.
        layout: what a user's own folder is taken for, in one line; empty for other data.
        settings: what says the same.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    classes: ClassTable | None = None
    splits: dict[str, SplitSummary] = field(default_factory=dict)
    layout: str = ""
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Problems and notes, images and void share per split, and each class's share of all labelled pixels."""
        names = self.classes.names if self.classes is not None else ()
        pixels = [sum(int(s.pixels[c]) for s in self.splits.values()) for c in range(len(names))]
        total = max(sum(pixels), 1)
        return {
            "layout": self.layout,
            "settings": self.settings,
            "problems": gathered(self.problems),
            "notes": self.notes,
            "void": {split: summary.void_share for split, summary in self.splits.items()},
            "counts": {split: summary.images for split, summary in self.splits.items()},
            "shares": {name: count / total for name, count in zip(names, pixels, strict=True)},
        }


Progress = Callable[[str, int, int], None]


@dataclass
class _Looked:
    """What one process found in its images of a split; lines with the index of their image."""

    summary: SplitSummary
    seen: Seen
    problems: list[tuple[int, str]] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)
    turned: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: _Looked) -> None:
        self.summary.add(other.summary)
        self.seen.merge(other.seen)
        for mine, theirs in (
            (self.problems, other.problems),
            (self.notes, other.notes),
            (self.turned, other.turned),
        ):
            mine.extend(theirs)
            mine.sort(key=lambda entry: entry[0])


def verify(config: DataConfig, progress: Progress | None = None, portion: Portion = ALONE) -> VerifyReport:
    """Reads every pair: sizes, values outside the classes, unreadable files, missing partners, classes without a pixel.

    A class without a pixel is a problem in the training split (it can get no prototype) and a note in validation.
    Of a folder that is to have no masks (``labels: null``) the training images alone are read.
    Problems with the data are lines of the report; nothing is raised for them.

    Args:
        config: of the data.
        progress: called with (what, images done, images) of this process.
        portion: this process's; all of them return the same report.
    """
    report, masked = VerifyReport(), config.labels is not None
    finding = look(config) if config.kind.own and masked else None
    if finding is not None:
        report.layout, report.settings = finding.line(), dict(finding.settings)
        report.notes += finding.notes
    if config.to_measure is not None:
        measured, problem = portion.gather(_measured(config, progress) if portion.first else (config, None))[0]
        if problem is not None:
            _add(report, problem)
            return report
        config = measured
        report.notes.append(f"data.value_range as measured: {config.value_range}")
    for split in SPLITS if masked else ("train",):
        try:
            dataset = _open_split(config, split, report)
        except DataError as error:
            _add(report, str(error))
            continue
        report.classes = dataset.classes
        report.splits[split] = _summarise(config, dataset, report, progress, portion)
        if split == "val":
            _check_parts(config, dataset, report, progress, portion)
    if finding is not None and finding.masked and report.classes is None:
        report.notes.append(portion.gather(values_line(config, finding, progress) if portion.first else "")[0])
    if masked:
        _check_presence(report, unused_classes(config))
    else:
        report.notes.append("data.labels = null: there are no masks, the images alone were checked")
    _check_published(config, report)
    return report


def _measured(config: DataConfig, progress: Progress | None) -> tuple[DataConfig, str | None]:
    """The settings with a measured value range, or why there is none."""
    try:
        return with_measured_range(config, None if progress is None else partial(progress, "values")), None
    except DataError as error:
        return config, str(error)


def _indices(dataset: SegmentationDataset, what: str, progress: Progress | None, portion: Portion) -> Iterator[int]:
    """The indices of this process's images; ``progress`` is called after each."""
    indices = portion.indices(len(dataset))
    for done, index in enumerate(indices, 1):
        yield index
        if progress is not None:
            progress(what, done, len(indices))


def _add(report: VerifyReport, line: str) -> None:
    if line not in report.problems:
        report.problems.append(line)


def _open_split(config: DataConfig, split: str, report: VerifyReport) -> SegmentationDataset:
    """Like ``build_dataset``, but where the kind of data can, what is missing becomes lines and the rest is checked."""
    if config.kind.check is None or config.labels is None:
        return build_dataset(config, split)
    dataset, problems = config.kind.check(config, split)
    for line in problems:
        _add(report, line)
    return dataset


def _summarise(
    config: DataConfig,
    dataset: SegmentationDataset,
    report: VerifyReport,
    progress: Progress | None,
    portion: Portion,
) -> SplitSummary:
    looked, *others = portion.gather(_looked(config, dataset, progress, portion))
    for other in others:
        looked.add(other)
    summary = looked.summary
    for _, problem in looked.problems:
        _add(report, problem)
    report.notes += [note for _, note in looked.notes]
    if config.kind.own and (line := void_object(dataset, summary.present.tolist(), summary.void)):
        _add(report, line)
    if config.kind.own and (line := unlisted_note(dataset, portion)):
        report.notes.append(line)
    turned = orientation_line([path for _, path in looked.turned])
    report.notes += [f"{dataset.split}: {line}" for line in [*looked.seen.notes, *filter(None, [turned])]]
    return summary


def _looked(config: DataConfig, dataset: SegmentationDataset, progress: Progress | None, portion: Portion) -> _Looked:
    """Reads this process's pairs."""
    count = dataset.classes.num_classes
    looked = _Looked(
        SplitSummary(len(dataset), np.zeros(count, np.int64), np.zeros(count, np.int64)), Seen(config.pixel_rule)
    )
    summary = looked.summary
    for index in _indices(dataset, dataset.split, progress, portion):
        try:
            sample = dataset[index]
        except DataError as error:
            looked.problems.append((index, str(error)))
            continue
        mask = sample.mask.numpy()
        looked.seen.add(sample)
        pixels = np.bincount(mask.ravel(), minlength=max(256, count))
        void, pixels[IGNORE_INDEX] = int(pixels[IGNORE_INDEX]), 0
        if void == mask.size and config.labels is not None:
            line = f"{dataset.path(index) or dataset.names[index]}: its mask is void everywhere"
            looked.notes.append((index, line))
        path = dataset.path(index) if config.kind.own else None
        if path is not None:
            looked.turned += [(index, str(turned)) for turned in turned_among([path])]
        summary.readable += 1
        summary.pixels += pixels[:count]
        summary.present += pixels[:count] > 0
        summary.void += void
        summary.sizes[(mask.shape[0], mask.shape[1])] += 1
    return looked


def unused_classes(config: DataConfig) -> tuple[int, ...]:
    """Classes of a published set that none of its labels show."""
    published = config.kind.published
    return () if published is None or config.merge else published.unused.get(published.variant(config.variant), ())


def _check_presence(report: VerifyReport, unused: tuple[int, ...]) -> None:
    if report.classes is None:
        return
    if unused:
        names = ", ".join(report.classes.names[c] for c in unused)
        report.notes.append(f"{len(unused)} of the classes in no published label: {names}")
    for split, summary in report.splits.items():
        for c, (name, pixels) in enumerate(zip(report.classes.names, summary.pixels, strict=True)):
            if summary.readable and pixels == 0 and c not in unused and c not in report.classes.hole:
                lines = report.problems if split == "train" else report.notes
                lines.append(f"class {name!r} has no pixel in the {split} split")


def _check_parts(
    config: DataConfig,
    dataset: SegmentationDataset,
    report: VerifyReport,
    progress: Progress | None,
    portion: Portion,
) -> None:
    """A note of how many validation images and classes have parts, beside the published numbers."""
    published = config.kind.published
    if published is None or published.parts is None or not isinstance(dataset, PairDataset) or not dataset.part_names:
        return
    own: set[str] = set()
    unread: list[tuple[int, str]] = []
    for index in _indices(dataset, "parts", progress, portion):
        try:
            parts = dataset.parts(index)
        except DataError as error:
            unread.append((index, str(error)))
            continue
        if parts is not None:
            ids = np.unique(parts.numpy())
            own |= {dataset.part_names[int(i)].split(" ")[0] for i in ids[ids > 0]}
    gathered = portion.gather((own, unread))
    classes = {name for names, _ in gathered for name in names}
    for _, line in sorted(entry for _, lines in gathered for entry in lines):
        _add(report, line)
    count = dataset.images_with_parts
    line = f"val: {count} images with part maps, parts of {len(classes)} classes"
    expected = (published.parts.val_images, published.parts.val_classes)
    if (count, len(classes)) != expected:
        line += f"; the published set has {expected[0]} and {expected[1]}"
    report.notes.append(line)


def _check_published(config: DataConfig, report: VerifyReport) -> None:
    """Counts of a published set, and whether Cityscapes' fine labels are coarse ones under their name."""
    published = config.kind.published
    if published is None:
        return
    variant = published.variant(config.variant)
    for split, summary in report.splits.items():
        expected = published.count(variant, split)
        if expected is not None and summary.images != expected:
            _add(report, f"{split}: {summary.images} images, the published set has {expected}")
        line = None
        if report.classes is not None and not config.coarse:
            line = coarse_line(summary.void_share, report.classes.names)
        if summary.readable and line is not None:
            _add(report, f"{split}: {line}")
