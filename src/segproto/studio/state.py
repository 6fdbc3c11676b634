"""One run in the studio: its model, what it saw of the validation images, and what edits do to both."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segproto.data.base import Sample, SegmentationDataset
from segproto.data.build import build_dataset
from segproto.data.picture import Picture, look_at
from segproto.data.subset import spread
from segproto.errors import DataError, SegprotoError
from segproto.evaluation.as_before import AnsweredMasks
from segproto.evaluation.rescore import EncoderFeatures
from segproto.evaluation.same_classes import require_same_classes
from segproto.evaluation.whatif import Kept, WhatIf
from segproto.model.edit import edited
from segproto.model.explain import Seen, explained, seen
from segproto.model.explanation import Explanation, Region
from segproto.model.predict import whole_pixels
from segproto.model.segmenter import Segmenter
from segproto.model.together import in_order
from segproto.places import cache_root
from segproto.report.wording import warnings
from segproto.runs.models import ready
from segproto.runs.settings import data_config
from segproto.studio.images import Brought, Recent, Uploads
from segproto.studio.session import Edits

PART = 768 * 768  # pixels: of an image too large to be seen at once, so much is looked at together
PARTS = 4  # of such images, how many parts are remembered
AT_ONCE = 300  # validation images that are kept in memory for scores; of more, so many spread over the set


@dataclass(frozen=True)
class Changed:
    """A model after edits.

    Attributes:
        model: the edited one; without edits the model itself.
        kept: old number of each of its prototypes; None = all, in order.
        groups: old number of each of its groups.
    """

    model: Segmenter
    kept: list[int] | None
    groups: list[int]


class Side:
    """A run (or model folder) that is open in the studio.

    Args:
        target: the folder.
        uploads: images that a person brought; both sides share them.
        stage: of a run: the model that this stage left.
        overrides: ``data.key=value`` settings of the validation images; others are for the training that forgets.
        device: as in :func:`segproto.evaluate`.

    Attributes:
        no_scores: why edits cannot be scored, in a line; None = they can.
        done: validation images looked at so far.
        total: of so many.
        failed: why looking at them stopped.
        warnings: what a person must know before believing the page.
    """

    def __init__(
        self,
        target: Path,
        uploads: Uploads,
        *,
        stage: str | None = None,
        overrides: Sequence[str] = (),
        device: str | None = None,
    ) -> None:
        self.target, self.uploads, self.stage = target, uploads, stage
        self.overrides, self.device = list(overrides), device
        self.data_overrides = [item for item in overrides if not item.startswith(("stages.", "train."))]
        self.model = ready(target, stage, device).eval()
        self.dataset: SegmentationDataset | None = None
        self.no_scores: str | None = None
        self.own_answers = False
        self.done = 0
        self.failed: str | None = None
        try:
            self.dataset = self.open_dataset()
        except SegprotoError as error:
            self.no_scores = str(error.args[0]) if error.args else str(error)
        self.indices = [] if self.dataset is None else spread(len(self.dataset), AT_ONCE)
        self.total = len(self.indices)
        # Both ask for the encoder's hash, which is another one while it sees an image of another size.
        self.warnings = warnings(self.model)
        self._features = None if self.dataset is None else EncoderFeatures(self.model, self.dataset, cache_root())
        classes = self.model.classes if self.dataset is None else self.dataset.classes
        self.what_if = WhatIf(self.model, classes)
        self._brought: Recent[Brought] = Recent(4)
        self._seen: Recent[Seen] = Recent(8)
        self._encoder = threading.Lock()  # one image at a time: encoders keep positions of the size they saw last
        self._parts: list[tuple[str, Region, Seen]] = []
        self._changed: Recent[Changed] = Recent(16)
        self._explained: Recent[Explanation] = Recent(6)
        self._counts: Recent[Tensor] = Recent(6)
        self._scores: Recent[dict[str, Any]] = Recent(600)

    def open_dataset(self) -> SegmentationDataset:
        """The validation images, with the model's own answers as masks where they have none to compare with.

        Raises:
            SegprotoError: there are none, they moved, or their classes are not the model's.
        """
        config = data_config(self.target, {}, self.data_overrides)
        dataset = build_dataset(config, "val")
        if not config.has_masks or self.model.found_categories:
            self.own_answers = True
            return AnsweredMasks(dataset, self.model)
        require_same_classes(self.model, dataset)
        return dataset

    @property
    def ready(self) -> bool:
        """Whether all validation images were looked at."""
        return self.done == self.total

    def look(self) -> None:
        """Looks at the validation images; with ``$SEGPROTO_CACHE`` what was seen before is read from there."""
        if self.dataset is None or self._features is None:
            return
        dataset, features = self.dataset, self._features

        def keep(index: int) -> Kept:
            with self._encoder:
                seen_features = features.get(index)
            return self.what_if.keep(dataset.names[index], seen_features, self.sample(dataset, index).mask)

        try:
            for kept in in_order((partial(keep, index) for index in self.indices), workers=2, ahead=4):
                self.what_if.images.append(kept)
                self.done += 1
        except SegprotoError as error:
            self.failed = self.no_scores = str(error.args[0]) if error.args else str(error)
        except Exception as error:  # a defect of ours: the page must not wait for ever
            self.failed = self.no_scores = f"{type(error).__name__}: {error}"
            raise

    def sample(self, dataset: SegmentationDataset, index: int) -> Sample:
        """An image of the data set; where the model answers for its mask, too, one at a time."""
        with self._encoder if self.own_answers else nullcontext():
            return dataset[index]

    # Models.

    def changed(self, edits: Edits) -> Changed:
        """The model after edits.

        Raises:
            ConfigError: what cannot be done.
        """
        return self._changed.get(edits, lambda: self._change(edits))

    def _change(self, edits: Edits) -> Changed:
        grouping = self.model.head.grouping
        if not edits:
            return Changed(self.model, None, [] if grouping is None else list(range(grouping.num_groups)))
        model, kept = edited(self.model, **edits.options())
        if grouping is None or model.head.grouping is None:
            return Changed(model, kept, [])
        left = torch.isin(grouping.class_of_group, model.head.grouping.class_of_group)
        return Changed(model, kept, left.nonzero()[:, 0].tolist())

    # Scores.

    def counts(self, edits: Edits) -> Tensor:
        """int64 (N, C, C) of the validation images, see :meth:`segproto.evaluation.whatif.WhatIf.count`."""

        def make() -> Tensor:
            changed = self.changed(edits)
            return self.what_if.count(changed.model.head, changed.kept)

        return self._counts.get(edits, make)

    def scores(self, edits: Edits) -> dict[str, Any]:
        """mIoU, accuracy and IoU per class.

        Raises:
            DataError: there is nothing to score on.
        """
        if self.no_scores is not None or not self.ready:
            raise DataError(self.no_scores or "the validation images are still being looked at")
        return self._scores.get(edits, lambda: self._score(edits))

    def _score(self, edits: Edits) -> dict[str, Any]:
        figures = self.what_if.scores(self.counts(edits))
        rows = [{"name": row["name"], "iou": row["iou"]} for row in figures["per_class"]]
        return {"miou": figures["miou"], "accuracy": figures["accuracy"], "per_class": rows}

    # Images.

    def brought(self, key: str) -> Brought:
        """The image of a key: a number of a validation image, or one that a person brought.

        Raises:
            DataError: there is none of that key, or it moved.
        """
        return self._brought.get(key, lambda: self._read(int(key))) if key.isdigit() else self.uploads.get(key)

    def _read(self, index: int) -> Brought:
        if self.dataset is None or index >= len(self.dataset):
            raise DataError(f"image {index}: there is none of that number")
        sample = self.sample(self.dataset, index)
        return Brought(sample.name, sample, None if self.own_answers else sample.mask)

    def size(self, key: str) -> tuple[int, int]:
        """(height, width) of an image."""
        picture = self.picture(key)
        return picture.height, picture.width

    def picture(self, key: str) -> Picture:
        """The pixels of an image as the model takes them.

        Raises:
            DataError: there is none of that key, it moved, or the model cannot read it.
        """
        rule, image = self.model.encoder.pixels, self.brought(key).image
        return look_at(image, rule=rule) if isinstance(image, Sample) else self.uploads.picture(key, rule)

    def fits(self, key: str, region: Region) -> bool:
        """Whether a part of an image is small enough to be explained."""
        height, width = self.size(key)
        return height * width <= whole_pixels(self.model) or area(region) <= PART

    def seen(self, key: str, region: Region) -> Seen:
        """What the encoder sees of an image. Where it is too large to be seen at once: of a part around the region."""
        height, width = self.size(key)
        if height * width <= whole_pixels(self.model):
            return self._seen.get((key, None), lambda: self._see(key, None))
        looked = next((part for part in self._parts if part[0] == key and inside(region, part[1])), None)
        if looked is None:  # zooming in further takes no new look
            looked = (key, region, self._seen.get((key, region), lambda: self._see(key, region)))
            self._parts = [looked, *self._parts][:PARTS]
        return looked[2]

    def _see(self, key: str, region: Region | None) -> Seen:
        picture = self.picture(key)
        if key.isdigit() and self._features is not None and self.model.input_size is None and region is None:
            with self._encoder:
                features = self._features.get(int(key))
            size = (picture.height, picture.width)
            return Seen(picture, (0, 0, *size), features, size)
        with self._encoder:
            return seen(self.model, picture, region=region)

    def explanation(self, key: str, region: Region, edits: Edits) -> Explanation:
        """Why the edited model answers as it does in a part of an image.

        Raises:
            SegprotoError: the image is gone, or the part is too large to be seen at once.
        """

        def make() -> Explanation:
            return explained(self.changed(edits).model, self.seen(key, region), region)

        return self._explained.get((key, region, edits), make)


def area(region: Region) -> int:
    """Pixels of a part of an image."""
    return (region[2] - region[0]) * (region[3] - region[1])


def inside(region: Region, other: Region) -> bool:
    """Whether a part lies within another one."""
    return region[0] >= other[0] and region[1] >= other[1] and region[2] <= other[2] and region[3] <= other[3]
