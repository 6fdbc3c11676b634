"""Failure cases: where a class is missed in an image, what spoke for the truth and what for the mistake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segproto.data.overlay import colour_labels
from segproto.evaluation.analyses.sample_maps import group_maps
from segproto.evaluation.analyses.sheet import Row, Tile, draw_sheet, write_result
from segproto.evaluation.analyses.units import prototype_name, prototype_picture, require_bank
from segproto.model.evidence import Evidence
from segproto.model.explanation import Explanation
from segproto.model.overlays import heat_overlay
from segproto.prototypes.labels import IGNORE_INDEX

TOP = 4  # prototypes shown of each class


@dataclass(frozen=True)
class Failure:
    """One class missed in one image.

    Attributes:
        name: of the image.
        true_class: the class of the truth.
        wrong_class: what most of its missed pixels were given.
        iou: of the true class in this image, 0..1.
        pixels: how many pixels of the true class were given the wrong class.
        true_pixels: pixels of the true class.
        inside: bool (h, w), where the truth is the true class.
        missed: bool (h, w), where it was given the wrong class.
    """

    name: str
    true_class: int
    wrong_class: int
    iou: float
    pixels: int
    true_pixels: int
    inside: Tensor
    missed: Tensor


def find_failures(
    prediction: Tensor, mask: Tensor, num_classes: int, name: str, below: float = 0.5, ignore: Sequence[int] = ()
) -> list[Failure]:
    """Classes whose IoU in this image lies below a threshold, with the wrong class most frequent in their place.

    Args:
        prediction: uint8 (h, w).
        mask: uint8 (h, w), 255 = void.
        num_classes: C.
        name: of the image.
        below: IoU in 0..1.
        ignore: wrong classes that do not count as a mistake worth showing (the paper: VOC's background).
    """
    valid = mask != IGNORE_INDEX
    failures = []
    for c in torch.unique(mask[valid]).tolist():
        inside, answered = mask == c, (prediction == c) & valid
        iou = float((inside & answered).sum()) / float((inside | answered).sum())
        counts = torch.bincount(prediction[inside].long(), minlength=num_classes)
        counts[c] = 0
        wrong = int(counts.argmax())
        if iou >= below or int(counts[wrong]) == 0 or wrong in ignore:
            continue
        missed = inside & (prediction == wrong)
        failures.append(Failure(name, c, wrong, iou, int(counts[wrong]), int(inside.sum()), inside, missed))
    return failures


def worst(failures: Sequence[Failure], count: int) -> list[Failure]:
    """The largest mistakes in pixels, one of each pair of classes before a second of any."""
    order = sorted(failures, key=lambda failure: -failure.pixels)
    times: dict[tuple[int, int], int] = {}
    ranked = []
    for rank, failure in enumerate(order):
        pair = (failure.true_class, failure.wrong_class)
        times[pair] = times.get(pair, 0) + 1
        ranked.append((times[pair], rank, failure))
    return [failure for _, _, failure in sorted(ranked, key=lambda entry: entry[:2])[:count]]


def evidence_of(explanation: Explanation, failure: Failure, top: int = TOP) -> tuple[Evidence, Evidence]:
    """Mean evidence over the missed pixels: for the true class, and for the one they were given."""
    return (
        explanation.region_evidence(failure.missed, failure.true_class, top),
        explanation.region_evidence(failure.missed, failure.wrong_class, top),
    )


def failure_json(explanation: Explanation, failure: Failure) -> dict[str, Any]:
    """A failure with its evidence and the readout weights behind it."""
    names, head = explanation.segmenter.classes.names, explanation.segmenter.head
    true, wrong = evidence_of(explanation, failure)
    pair = [failure.true_class, failure.wrong_class]
    weights = head.unit_weights()
    readout = None if weights is None else weights.detach()[pair].tolist()
    return {
        "image": failure.name,
        "true_class": names[failure.true_class],
        "wrong_class": names[failure.wrong_class],
        "iou": failure.iou,
        "missed_pixels": failure.pixels,
        "true_pixels": failure.true_pixels,
        "evidence_for_true": true.to_json(),
        "evidence_for_wrong": wrong.to_json(),
        "readout": readout,
    }


def save_failure(explanation: Explanation, failure: Failure, out: Path) -> dict[str, Any]:
    """Writes ``analysis.json``, ``arrays.safetensors`` and ``failure.png``: both classes' groups and prototypes."""
    require_bank(explanation.segmenter)
    document = failure_json(explanation, failure)
    arrays = {"inside": failure.inside, "missed": failure.missed, "prediction": explanation.prediction}
    write_result(out, arrays, document)
    image, names = explanation.image.cpu(), explanation.segmenter.classes.names
    colours = dict(enumerate(explanation.segmenter.classes.colours))
    first = [
        Tile(image, failure.name),
        Tile(colour_labels(image, failure.inside.long(), {1: (0, 114, 178)}), f"truth: {names[failure.true_class]}"),
        Tile(colour_labels(image, explanation.prediction, colours), "the model's answer"),
        Tile(colour_labels(image, failure.missed.long(), {1: (213, 94, 0)}), f"taken for {names[failure.wrong_class]}"),
    ]
    rows = [Row(f"{names[failure.true_class]} taken for {names[failure.wrong_class]}, IoU {failure.iou:.2f}", first)]
    rows += group_rows(explanation, failure)
    for words, evidence in zip(("true", "wrong"), evidence_of(explanation, failure), strict=True):
        tiles = []
        for shown in evidence.prototypes:
            caption = f"{prototype_name(explanation.segmenter, shown.prototype)}\n{shown.contribution:+.2f}"
            tiles.append(Tile(prototype_picture(explanation.segmenter, shown.prototype), caption))
        title = f"what speaks for {evidence.class_name} (the {words} class) there: score {evidence.logit:.2f}"
        rows.append(Row(title, tiles))
    draw_sheet(rows, out / "failure.png", side=150)
    return document


def group_rows(explanation: Explanation, failure: Failure) -> list[Row]:
    """Group maps of both classes where the true class is; each pair of groups shares one colour scale.

    See docs/specs/scaleproto.md#failure-cases.
    """
    names = explanation.segmenter.classes.names
    if explanation.segmenter.head.grouping is None:
        return []
    image, inside = explanation.image.cpu(), failure.inside
    maps = [group_maps(explanation, c)[0] for c in (failure.true_class, failure.wrong_class)]
    rows = []
    for side, c in enumerate((failure.true_class, failure.wrong_class)):
        tiles = []
        for g, values in enumerate(maps[side]):
            both = [m[g][inside] for m in maps if g < len(m)]
            low, high = min(float(b.min()) for b in both), max(float(b.max()) for b in both)
            level = ((values - low) / max(high, 1e-12)).clamp(0, 1) * inside
            tiles.append(Tile(heat_overlay(image, level, limits=(0, 1)), f"group {g + 1}"))
        rows.append(Row(f"groups of {names[c]}, where the truth is {names[failure.true_class]}", tiles))
    return rows
