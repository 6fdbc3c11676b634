"""The lines of a report about what may mislead the model, from the images that are explained anyway."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from segproto.data.base import Sample, SegmentationDataset
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
    """

    def __init__(self, model: Segmenter, dataset: SegmentationDataset) -> None:
        self.search, self.dataset, self.images = ShortcutSearch(model, dataset.classes), dataset, 0

    def visit(self, explanation: Explanation, sample: Sample) -> None:
        """Takes one explained validation image in."""
        self.images += 1
        self.search.look("val", sample.name, explanation.features, sample.mask, explanation.field)

    def lines(self, training: Callable[[], SegmentationDataset], part: Part) -> list[str] | None:
        """What is worth a line, the costliest first; None where the training images cannot be read.

        Args:
            training: opens them.
            part: gets (title, done, total).
        """
        try:
            train = training()
            self.search.look_through("train", train, partial(part, "training images"))
            if not self.images:  # of a black box none is explained
                self.search.look_through("val", self.dataset, partial(part, "validation images"))
            contexts = self.search.contexts(train, 1, partial(part, "surroundings"), most=CLASSES)
        except DataError:  # told by whoever trains on them; a report is about the model
            return None
        found = self.search.find(contexts, partial(part, "without each prototype"))
        return [one.words(self.dataset.classes.names) for one in found[:LINES]]
