"""Metrics on the parts of objects: do prototypes stand for parts, and do they stay on them?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segproto.evaluation.interpretability.metric import PARTS, PROTOTYPES, SHARE, Metric, Subject, Suite
from segproto.evaluation.interpretability.views import View, encode, generator
from segproto.metrics.consistency import Consistency, Presence, Stability, part_presence
from segproto.metrics.keypoints import Keypoints
from segproto.metrics.purity import Purity, cell_parts

NOISE = 0  # stream of random numbers


def part_points(view: View, subject: Subject) -> Keypoints | None:
    """Key points of the parts in an image; None without a part map."""
    return view.once("key points", lambda: view.keypoints(subject.config.background_centroid))


def presence(view: View, subject: Subject, activations: Tensor, points: Keypoints) -> Presence:
    """Which prototypes are active on which parts."""
    return part_presence(
        activations,
        view.sample.mask,
        points,
        subject.class_of,
        subject.num_parts,
        area=view.area,
        num_classes=subject.prototypes.num_classes,
        quantiles=subject.config.quantiles,
        within=subject.config.within,
        cells=subject.config.cells,
    )


def clean_presence(view: View, subject: Subject, points: Keypoints) -> Presence:
    """The same in the image as it is."""
    return view.once("presence", lambda: presence(view, subject, view.activations, points))


class PartSuite(Suite):
    """A metric on parts, over the prototypes that count for parts.

    Args:
        subject: what is looked at.
        metric: accumulates it.
    """

    metric: Consistency | Stability | Purity

    def __init__(self, subject: Subject, metric: Consistency | Stability | Purity) -> None:
        super().__init__(subject, parts=metric)
        self.metric = metric

    def compute(self) -> dict[str, Any]:
        return self.metric.compute(self.subject.kept_for_parts)


class ConsistencySuite(PartSuite):
    """Prototypes on parts, image by image."""

    metric: Consistency

    def __init__(self, subject: Subject) -> None:
        config, classes = subject.config, subject.class_of
        super().__init__(subject, Consistency(classes, subject.num_parts, config.quantiles, config.consistency_limit))

    def update(self, view: View) -> None:
        points = part_points(view, self.subject)
        if points is not None:
            self.metric.update(clean_presence(view, self.subject, points))


class StabilitySuite(PartSuite):
    """Each image seen twice, with and without noise."""

    metric: Stability

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject, Stability(subject.class_of, subject.config.quantiles))

    def update(self, view: View) -> None:
        points = part_points(view, self.subject)
        if points is not None and len(points.part):
            clean = clean_presence(view, self.subject, points)
            self.metric.update(clean, presence(view, self.subject, self._noisy(view), points))

    def _noisy(self, view: View) -> Tensor:
        """Activations (P, h, w) of the image with noise."""
        config, image = self.subject.config, view.model.encoder.normalisation(view.sample.image)
        noise = torch.randn(image.shape, generator=generator(config.seed, NOISE, view.index))
        features = encode(view.model, (image + config.noise * noise)[None])
        return View(view.model, view.sample, view.index, features).activations


class PuritySuite(PartSuite):
    """The part under the strongest cell of each prototype."""

    metric: Purity

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject, Purity(subject.class_of, subject.num_parts, subject.config.purity_images))

    def update(self, view: View) -> None:
        points = part_points(view, self.subject)
        if points is None or view.part_map is None:
            return
        flat, count = view.activations.flatten(1), self.subject.num_parts
        classes = torch.bincount(points.class_id).nonzero()[:, 0]
        parts = cell_parts(view.part_map, view.sample.mask, view.cells, flat.shape[1], count, classes)
        self.metric.update(flat, parts, classes, view.index)


CONSISTENCY = Metric(
    name="consistency",
    meaning="Share of prototypes that are active on one and the same part of their class in most images: "
    "higher is better, 1 means that every prototype stands for one part.",
    how="Most: more than 80 % of the class's images. A prototype is active where it exceeds its quantile over the "
    "class's pixels; key points are the centres of the 8-connected pieces of each part. Mean over several quantiles.",
    unknown="the class has no parts in the images seen, or none of its prototypes is in use",
    unit=SHARE,
    range=(0, 1),
    needs=(PROTOTYPES, PARTS),
    start=ConsistencySuite,
)
STABILITY = Metric(
    name="stability",
    meaning="Share of prototypes whose active parts stay the same when noise is added to the image: higher is better.",
    how="Of all (image, class, prototype); the noise has a standard deviation of 0.2 of the normalised image.",
    unknown=CONSISTENCY.unknown,
    unit=SHARE,
    range=(0, 1),
    needs=(PROTOTYPES, PARTS),
    start=StabilitySuite,
)
PURITY = Metric(
    name="purity",
    meaning="Of the images a prototype answers to most, the share where it sees its most frequent part: "
    "1 means always the same part.",
    how="Of the 10 strongest images, by the part under the strongest cell.",
    unknown="the prototype is not in use, or no image shows a part of its class",
    unit=SHARE,
    range=(0, 1),
    needs=(PROTOTYPES, PARTS),
    start=PuritySuite,
)
