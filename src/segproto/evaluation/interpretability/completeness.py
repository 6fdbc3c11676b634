"""Completeness of every logit of every image: at all cells for all classes, and at random pixels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from segproto.evaluation.interpretability.metric import Metric, Subject, Suite
from segproto.evaluation.interpretability.views import View, generator
from segproto.metrics.completeness import Completeness, completeness_error
from segproto.model.explanation import Explanation
from segproto.model.field import Field

CHUNK = 2**22  # numbers (cells times prototypes) held at once
STREAM = 2


class CompletenessSuite(Suite):
    """Two accumulators: logits on the grid, and upsampled logits of predicted classes at random pixels.

    Args:
        subject: any model.
    """

    def __init__(self, subject: Subject) -> None:
        self.grid, self.pixels = Completeness(), Completeness()
        super().__init__(subject, grid=self.grid, pixels=self.pixels)

    def update(self, view: View) -> None:
        self.grid.update(grid_errors(view), view.index)
        self.pixels.update(self._pixel_errors(view), view.index)

    def _pixel_errors(self, view: View) -> Tensor:
        height, width = view.size
        field = Field.over(view.logits, view.model.encoder, view.size, view.size)
        region = (0, 0, height, width)
        why = Explanation(view.model, view.sample.name, view.sample.colours, region, (0, 0), view.cell_features, field)
        random = generator(self.subject.config.seed, STREAM, view.index)
        pixels = torch.randint(height * width, (self.subject.config.pixels,), generator=random)
        ys, xs = pixels // width, pixels % width
        logits = why.logits(ys, xs)
        best, classes = logits.max(1)
        shares = why.evidence(ys, xs, classes)
        return completeness_error(shares.prototypes, shares.offset, best)

    def compute(self) -> dict[str, Any]:
        """The grid's figures, and those at pixels under ``pixels``."""
        return {**self.grid.compute(), "pixels": self.pixels.compute()}


def grid_errors(view: View) -> Tensor:
    """Errors (C, h*w) of all logits on the grid."""
    head, logits = view.model.head, view.logits.flatten(1)
    cells = view.cell_features[0].flatten(1).T
    step = max(1, CHUNK // max(view.activations.shape[0], 1))
    errors = []
    for part in torch.split(torch.arange(len(cells), device=cells.device), step):
        for c in range(head.num_classes):
            shares = head.contributions(cells[part], torch.full_like(part, c))
            errors.append(completeness_error(shares.prototypes, shares.offset, logits[c, part]))
    return torch.cat(errors)


COMPLETENESS = Metric(
    name="completeness",
    meaning="Largest relative error of a logit rebuilt from its contributions: below 1e-4, explanations are exact.",
    how="Over all cells, classes and images; also at random pixels.",
    unknown="no such logit was looked at",
    unit="relative error",
    range=(0, math.inf),
    needs=(),
    start=CompletenessSuite,
)
