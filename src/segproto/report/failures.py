"""The failure cases of a report: the largest mistakes with what spoke for the truth and for the answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from segproto.data.base import Sample
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
    """Collects failures while images are explained anyway, and keeps the explanations of the largest only."""

    failures: list[tuple[Failure, Explanation]]
    images: int = 0
    count: int = 0

    def visit(self, explanation: Explanation, sample: Sample) -> None:
        """Takes one explained image in."""
        self.images += 1
        explained, classes = replace(explanation, name=sample.name), explanation.segmenter.head.num_classes
        fresh = find_failures(explanation.prediction, sample.mask, classes, sample.name, BELOW)
        self.count += len(fresh)
        least = LEAST * sample.mask.numel()
        self.failures += [(failure, explained) for failure in fresh if failure.pixels >= least]
        chosen = {id(failure) for failure in worst([failure for failure, _ in self.failures], SHOWN)}
        self.failures = [pair for pair in self.failures if id(pair[0]) in chosen]

    def cases(self) -> list[dict[str, Any]]:
        """What the template shows, the largest mistakes first."""
        order = {id(failure): rank for rank, failure in enumerate(worst([f for f, _ in self.failures], SHOWN))}
        ranked = sorted(self.failures, key=lambda pair: order[id(pair[0])])
        return [case(failure, explanation) for failure, explanation in ranked]


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
