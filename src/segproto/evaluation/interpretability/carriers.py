"""How few prototypes carry the logit of the predicted class."""

from __future__ import annotations

import math
from typing import Any

import torch

from segproto.evaluation.interpretability.metric import Metric, Subject, Suite
from segproto.evaluation.interpretability.views import View, generator
from segproto.metrics.accumulate import scored
from segproto.metrics.carriers import Carriers

STREAM = 6
PARTS = (0.5, 0.9, 0.99)
HEADLINE = PARTS.index(0.9)


class CarriersSuite(Suite):
    """Contributions to the predicted class at random cells of each image.

    Args:
        subject: with prototypes.
    """

    def __init__(self, subject: Subject) -> None:
        self.metric = Carriers(PARTS)
        super().__init__(subject, carriers=self.metric)

    def update(self, view: View) -> None:
        config, count = self.subject.config, view.grid[0] * view.grid[1]
        cells = torch.randint(count, (config.pixels,), generator=generator(config.seed, STREAM, view.index))
        features = view.cell_features[0].flatten(1).T[cells.to(view.features.device)]
        classes = view.logits.flatten(1)[:, cells.to(view.logits.device)].argmax(0)
        self.metric.update(view.model.head.contributions(features, classes).prototypes)

    def compute(self) -> dict[str, Any]:
        means = self.metric.means()
        rows = [{"part": part, "value": value} for part, value in zip(PARTS, means, strict=True)]
        return scored(means[HEADLINE], "no image was looked at", per_part=rows)


CARRIERS = Metric(
    name="carriers",
    meaning="Mean number of prototypes that carry 90 % of the predicted class's logit at a cell: lower means fewer "
    "patches to look at to understand one decision.",
    how="The fewest whose absolute contributions make up so much of all of them, at 100 random cells per image; also "
    "for 50 and 99 %.",
    unit="prototypes",
    range=(0, math.inf),
    start=CarriersSuite,
)
