"""What a class is recognised by, the thing or its surroundings; and whether prototypes stand for a place."""

from __future__ import annotations

import torch

from segproto.evaluation.interpretability.metric import SHARE, Metric, OneAccumulator, Subject
from segproto.evaluation.interpretability.views import View, generator
from segproto.evaluation.review.context import MOST, owed_to
from segproto.metrics.context import Context
from segproto.metrics.position import Position, places

STREAM = 7


class ContextSuite(OneAccumulator):
    """Every class of an image that covers enough of it, but not all; two forward passes each.

    Args:
        subject: any model.
    """

    metric: Context

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject, Context(subject.dataset.classes.num_classes))

    def update(self, view: View) -> None:
        mask = view.sample.mask
        smallest = max(1.0, self.subject.config.smallest * mask.numel())
        pixels = torch.bincount(mask.flatten().long(), minlength=self.metric.num_classes)[: self.metric.num_classes]
        for class_id in ((pixels >= smallest) & (pixels <= MOST * mask.numel())).nonzero()[:, 0].tolist():
            owed = owed_to(view.model, view.sample, class_id, view.logits[None])
            self.metric.update(owed, class_id, view.index)


class PositionSuite(OneAccumulator):
    """The strongest cell of each prototype in every image that shows its class.

    Args:
        subject: with prototypes.
    """

    metric: Position

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject, Position(subject.class_of, subject.prototypes.num_classes, subject.kept))

    def update(self, view: View) -> None:
        activations = view.activations.flatten(1)
        random = generator(self.subject.config.seed, STREAM, view.index)
        (height, width), (covered_height, covered_width) = view.size, view.area
        self.metric.update(
            activations,
            view.labels.flatten(),
            places(view.grid, (covered_height / height, covered_width / width)),
            view.pixels > 0,
            torch.rand(activations.shape, generator=random),
            view.index,
        )


CONTEXT = Metric(
    name="context",
    meaning="Share of the evidence for a class that lies outside of it, mean over classes: lower means that things are "
    "recognised by themselves, not by what is around them.",
    how="What the class's probability loses with all else painted over in the mean colour, over that plus what it "
    "loses with the class painted over.",
    unknown="the class is recognised in no image in which it covers enough, but not all",
    unit=SHARE,
    range=(0, 1),
    needs=(),
    start=ContextSuite,
    few=True,
)
POSITION = Metric(
    name="position",
    meaning="Share of prototypes whose best matches keep to one height or one column of the image: higher means "
    "prototypes that may stand for a place.",
    how="Their variance, down or across, is below a quarter of that of the class's own cells, over at least 10 images; "
    "with what random cells of the class give (`chance`).",
    unknown="the prototype is not in use, or too few images show its class",
    unit=SHARE,
    range=(0, 1),
    start=PositionSuite,
)
