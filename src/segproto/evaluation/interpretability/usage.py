"""Metrics on which prototypes are used where: by their class, by none, or by another class."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.evaluation.interpretability.metric import SHARE, Metric, OneAccumulator, Subject, Suite, of_model
from segproto.evaluation.interpretability.views import View, generator
from segproto.metrics.pointing import Pointing
from segproto.metrics.usage import Coverage, Usage, prototype_distances

PIXELS = 1  # stream of random numbers


class PointingSuite(Suite):
    """The strongest cell of each prototype."""

    def __init__(self, subject: Subject) -> None:
        self.metric = Pointing(subject.class_of, subject.prototypes.num_classes, subject.config.band)
        super().__init__(subject, pointing=self.metric)

    def update(self, view: View) -> None:
        self.metric.update(view.activations, view.labels)

    def compute(self) -> dict[str, Any]:
        return self.metric.compute(self.subject.kept)


class CoverageSuite(OneAccumulator):
    """The pixels of each class that its prototypes reach."""

    metric: Coverage

    def __init__(self, subject: Subject) -> None:
        classes, quantiles = subject.prototypes.num_classes, subject.config.quantiles
        super().__init__(subject, Coverage(subject.class_of, classes, quantiles, subject.kept))

    def update(self, view: View) -> None:
        self.metric.update(view.activations.flatten(1), view.weights, view.size)


class UsageSuite(Suite):
    """The strongest prototypes at each cell, and at cells of pixels drawn at random; read by three metrics."""

    def __init__(self, subject: Subject) -> None:
        classes, ks = subject.prototypes.num_classes, subject.config.neighbours
        self.metric = Usage(subject.class_of, classes, ks, subject.kept)
        super().__init__(subject, usage=self.metric)

    def update(self, view: View) -> None:
        self.metric.update(view.activations.flatten(1), view.labels.flatten(), self._drawn(view))

    def _drawn(self, view: View) -> Tensor:
        """Cells of pixels drawn at random."""
        config, cells = self.subject.config, view.cells.flatten()
        random = generator(config.seed, PIXELS, view.index)
        return cells[torch.randint(len(cells), (config.pixels,), generator=random)]

    def compute(self) -> dict[str, Any]:
        """Dead prototypes, twins, and how far the projection moved them."""
        provenance = self.subject.model.provenance
        sources = [s for s in provenance.sources if s is not None] if provenance is not None else []
        gaps = torch.tensor([max(s.distance, 0.0) for s in sources], dtype=torch.float64).sqrt()
        gap = {"mean": float(gaps.mean()), "largest": float(gaps.max())} if sources else None
        twins = distances(self.subject)["duplicates"]
        figures = self.metric.usage() | {"duplicates": twins, "projection_gap": gap}
        return figures if sources else figures | {"projection_gap_reason": "the model has no provenance"}


def distances(subject: Subject) -> dict[str, Any]:
    """Distances between the prototypes of a class and scale; those that are compared by cosine as directions."""
    bank = subject.prototypes
    vectors = bank.vectors.detach().flatten(0, -2)
    vectors = F.normalize(vectors, dim=1) if bank.compares == "cosine" else vectors
    return prototype_distances(vectors, bank.class_of, bank.scale_of, bank.num_classes)


POINTING = Metric(
    name="pointing",
    meaning="Share of (image, prototype) whose strongest cell lies in the prototype's class: higher is better.",
    how="Also among the cells along class boundaries alone; with the classes most often hit by mistake.",
    unknown="the prototype is not in use, or no image was looked at",
    unit=SHARE,
    range=(0, 1),
    start=PointingSuite,
)
COVERAGE = Metric(
    name="coverage",
    meaning="Share of a class's pixels where at least one of its prototypes is strongly active: higher means that "
    "the prototypes share the class out instead of all looking at one place.",
    how="Prototypes that all look at one place cover 1 - q at the quantile q.",
    unknown="no prototype of the class is in use, or no image shows it",
    unit=SHARE,
    range=(0, 1),
    start=CoverageSuite,
)
HEALTH = Metric(
    name="health",
    meaning="Share of prototypes that are never the strongest of their class: dead ones explain nothing.",
    how="Also duplicates, how evenly a class uses its prototypes (entropy), and how far the projection moved them "
    "(gap).",
    unknown="no prototype of the class is in use, or no image shows it; a gap needs provenance",
    unit=SHARE,
    range=(0, 1),
    start=UsageSuite,
)
DISTANCES = Metric(
    name="distances",
    meaning="Mean distance between the prototypes of a class and scale: near 0 means that they are copies.",
    how="Euclidean; of prototypes compared by their direction, after normalising.",
    unknown="the class has no two prototypes of one scale",
    unit="distance",
    range=(0, math.inf),
    start=of_model(distances),
)
NEIGHBOURS = Metric(
    name="neighbours",
    meaning="Share of the k strongest prototypes at a random cell that belong to the cell's class: 1 means that "
    "evidence never comes from other classes.",
    how="For k = 1, 3, 5 and 10, at the cells of 100 random pixels per image.",
    unknown="fewer prototypes are in use than k",
    unit=SHARE,
    range=(0, 1),
    start=UsageSuite,
    read=lambda suite: suite.metric.neighbours(),
)
NEAREST = Metric(
    name="nearest",
    meaning="Share of a class's cells whose strongest prototype is of that class, mean over classes.",
    how="Also how often each prototype is the strongest.",
    unknown="no image shows the class, or none of its prototypes is in use",
    unit=SHARE,
    range=(0, 1),
    start=UsageSuite,
    read=lambda suite: suite.metric.nearest(),
)
