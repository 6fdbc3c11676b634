"""The lines of a report about what may mislead the model, from the images that are explained anyway."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from segproto.data.base import Sample, SegmentationDataset
from segproto.data.portion import ALONE, Portion
from segproto.errors import DataError
from segproto.evaluation.review.shortcuts import ShortcutSearch
from segproto.model.explanation import Explanation
from segproto.model.segmenter import Segmenter

LINES = 10
CLASSES = 8  # whose surroundings are painted over in an image each

Part = Callable[[str, int, int], None]


class ShortcutBook:
    """Collects evidence while validation images are explained anyway.

    Args:
        model: in eval mode.
        dataset: the validation images.
        portion: of the images that this process looks at.
    """

    def __init__(self, model: Segmenter, dataset: SegmentationDataset, portion: Portion = ALONE) -> None:
        self.search, self.dataset, self.images = ShortcutSearch(model, dataset.classes, portion), dataset, 0

    def visit(self, explanation: Explanation, sample: Sample, place: int) -> None:
        """Takes one explained validation image in, the one of number ``place``."""
        self.images += 1
        self.search.look("val", sample.name, explanation.features, sample.mask, explanation.field, place)

    def lines(self, training: Callable[[], SegmentationDataset], part: Part) -> list[str] | None:
        """What is worth a line, the costliest first; None where the training images cannot be read.

        Args:
            training: opens them.
            part: gets (title, done, total).
        """
        portion, failed = self.search.portion, False
        explained = any(portion.gather(self.images))  # of a black box none is
        try:
            train = training()
            self.search.look_through("train", train, partial(part, "training images"))
            if not explained:
                self.search.look_through("val", self.dataset, partial(part, "validation images"))
        except DataError:  # told by whoever trains on them; a report is about the model
            failed = True
        if any(portion.gather(failed)):
            return None
        contexts = self.search.contexts(train, 1, partial(part, "surroundings"), most=CLASSES)
        found = self.search.find(contexts, partial(part, "without each prototype"))
        return [one.words(self.dataset.classes.names) for one in found[:LINES]]
