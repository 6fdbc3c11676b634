"""The failure cases of a report: the largest mistakes with what spoke for the truth and for the answer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from segproto.data.base import Sample
from segproto.data.portion import ALONE, Portion
from segproto.evaluation.analyses.failures import Failure, evidence_of, find_failures, worst
from segproto.model.evidence import Evidence
from segproto.model.explanation import Explanation
from segproto.prototypes.labels import borders
from segproto.report.pictures import data_uri

BELOW = 0.5  # IoU of a class in one image that counts as failed
SHOWN, PROTOTYPES, SIDE = 6, 4, 320
CONTEXT = 12  # pixels around the failed class
ORANGE = (230.0, 159.0, 0.0)  # Okabe and Ito
LEAST = 0.002  # of the image: smaller mistakes are left to the figures


@dataclass
class FailureBook:
    """Collects failures while images are explained anyway, and keeps the explanations of the largest only.

    Attributes:
        failures: with the explanation of their image, in the order of images.
        images: how many were looked at.
        count: failures of any size in them.
    """

    failures: list[tuple[Failure, Explanation]] = field(default_factory=list)
    images: int = 0
    count: int = 0
    _places: dict[str, int] = field(default_factory=dict)  # of the images among those of all processes

    def visit(self, explanation: Explanation, sample: Sample, place: int) -> None:
        """Takes one explained image in, the one of number ``place``."""
        self.images += 1
        self._places[sample.name] = place
        explained, classes = replace(explanation, name=sample.name), explanation.segmenter.head.num_classes
        fresh = find_failures(explanation.prediction, sample.mask, classes, sample.name, BELOW)
        self.count += len(fresh)
        least = LEAST * sample.mask.numel()
        self.failures += [(failure, explained) for failure in fresh if failure.pixels >= least]
        chosen = {id(failure) for failure in worst([failure for failure, _ in self.failures], SHOWN)}
        self.failures = [pair for pair in self.failures if id(pair[0]) in chosen]

    def cases(self, portion: Portion = ALONE) -> list[dict[str, Any]]:
        """What the template shows, the largest mistakes first, of the books of all processes.

        Each makes the pictures of its own images; ``images`` and ``count`` are those of all from then on.
        """
        none = torch.zeros(0)
        own = [(self._places[f.name], replace(f, inside=none, missed=none)) for f, _ in self.failures]
        books = portion.gather((own, self.images, self.count))
        every = sorted((entry for entries, _, _ in books for entry in entries), key=lambda entry: entry[0])
        self.images, self.count = sum(book[1] for book in books), sum(book[2] for book in books)
        chosen = [(failure.name, failure.true_class) for failure in worst([f for _, f in every], SHOWN)]
        made = {(f.name, f.true_class): case(f, why) for f, why in self.failures if (f.name, f.true_class) in chosen}
        of_all = {key: shown for cases in portion.gather(made) for key, shown in cases.items()}
        return [of_all[key] for key in chosen]


def case(failure: Failure, explanation: Explanation) -> dict[str, Any]:
    """One failure: its picture, and the mean evidence over the missed pixels for both classes."""
    classes = explanation.segmenter.classes
    true, wrong = evidence_of(explanation, failure, PROTOTYPES)
    most = max([abs(item.contribution) for side in (true, wrong) for item in side.prototypes], default=1.0)
    sides = [
        {"role": role, "class_id": e.class_id, "name": e.class_name, "logit": e.logit, "rows": rows(e, most)}
        for role, e in (("truth", true), ("answer", wrong))
    ]
    photo, marked, landscape = pictures(failure, explanation.image.cpu())
    return {
        "image": failure.name,
        "true": classes.names[failure.true_class],
        "wrong": classes.names[failure.wrong_class],
        "true_id": failure.true_class,
        "wrong_id": failure.wrong_class,
        "iou": failure.iou,
        "missed": failure.pixels / failure.true_pixels,
        "photo": photo,
        "marked": marked,
        "landscape": landscape,
        "sides": sides,
    }


def rows(side: Evidence, most: float) -> list[dict[str, Any]]:
    """Prototypes with their contribution and the length of its bar in percent."""
    return [
        {
            "prototype": item.prototype,
            "class_id": item.class_id,
            "contribution": item.contribution,
            "width": max(1.0, 100 * abs(item.contribution) / (most or 1.0)),
        }
        for item in side.prototypes
    ]


def pictures(failure: Failure, image: Tensor) -> tuple[str, str, bool]:
    """The part of the photo around the failed class, plain, and in grey with the missed pixels in orange.

    Returns:
        Both as data URIs, and whether they are much wider than high.
    """
    ys, xs = failure.inside.nonzero(as_tuple=True)
    height, width = failure.inside.shape
    margin = CONTEXT + int(max(ys.max() - ys.min(), xs.max() - xs.min())) // 4
    y0, y1 = max(0, int(ys.min()) - margin), min(height, int(ys.max()) + 1 + margin)
    x0, x1 = max(0, int(xs.min()) - margin), min(width, int(xs.max()) + 1 + margin)
    crop, missed, inside = (t[..., y0:y1, x0:x1] for t in (image, failure.missed, failure.inside))
    grey = 0.5 * crop.float().mean(0, keepdim=True)
    marked = torch.where(missed, grey + 0.6 * torch.tensor(ORANGE).view(3, 1, 1), grey + 24).clamp(0, 255)
    marked[:, borders(inside)] = 255
    landscape = crop.shape[-1] > 1.25 * crop.shape[-2]
    return data_uri(enlarged(crop), side=SIDE), data_uri(enlarged(marked.to(torch.uint8)), side=SIDE), landscape


def enlarged(picture: Tensor) -> Tensor:
    """A small picture with every pixel repeated, so that it is not blurred on the page."""
    factor = max(1, SIDE // max(picture.shape[-2:]))
    return picture.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
