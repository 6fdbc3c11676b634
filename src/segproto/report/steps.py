"""The report's section about a run's steps: what each made of chosen images, how right it is, and what it changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segproto.data.base import ClassTable
from segproto.metrics.segmentation import confusion_matrix, segmentation_scores
from segproto.prototypes.labels import IGNORE_INDEX
from segproto.report.pictures import data_uri, heat
from segproto.training.procedures.steps import INDEX, Step, read_steps

SIDE = 260
SHADE = 0.62  # of a class's colour over the photo
BETTER, WORSE, OTHER = (46, 160, 67), (215, 58, 73), (221, 165, 32)


def step_cases(run: Path, classes: ClassTable) -> list[dict[str, Any]]:
    """What the template shows of every image that a stage kept the steps of; empty if none did."""
    cases = []
    for index in sorted(run.glob(f"stages/*/steps/{INDEX}")):
        steps, images = read_steps(index.parent)
        cases += [case(name, steps, pictures, classes) for name, pictures in images.items()]
    return cases


def case(name: str, steps: list[Step], pictures: dict[str, Tensor], classes: ClassTable) -> dict[str, Any]:
    """One image: the photo, its true mask if there is one, and the steps."""
    image, truth = pictures["image"], pictures["truth"].long()
    known = bool((truth != IGNORE_INDEX).any())
    rows, before = [], None
    for step in steps:
        values = pictures[step.key]
        row: dict[str, Any] = {"title": step.title, "iou": None, "change": None}
        if step.kind == "heat":
            row["picture"] = data_uri(heat(values.float()), side=SIDE)
        else:
            mask = values.long()
            row["picture"] = data_uri(tinted(image, mask, classes), side=SIDE)
            row["iou"] = image_iou(mask, truth, classes.num_classes) if known else None
            if before is not None:
                row["change"] = change(image, before, mask, truth, known)
            before = mask if bool((mask != IGNORE_INDEX).all()) else before
        rows.append(row)
    masks = [truth, *(pictures[step.key].long() for step in steps if step.kind == "classes")]
    classes_shown = {c for mask in masks for c in torch.bincount(mask.flatten()).nonzero().flatten().tolist()}
    return {
        "name": name,
        "photo": data_uri(image, side=SIDE),
        "truth": data_uri(tinted(image, truth, classes), side=SIDE) if known else None,
        "steps": rows,
        "words": [(step.title, step.words) for step in steps],
        "classes": sorted(classes_shown - {IGNORE_INDEX}),
    }


def image_iou(mask: Tensor, truth: Tensor, num_classes: int) -> float | None:
    """Mean IoU over the classes in mask or truth; undecided pixels (255) are wrong."""
    valid = truth != IGNORE_INDEX
    decided = valid & (mask != IGNORE_INDEX)
    counts = confusion_matrix(mask[decided], truth[decided], num_classes)
    undecided = torch.bincount(truth[valid & ~decided], minlength=num_classes)
    return segmentation_scores(counts, undecided).miou


def tinted(image: Tensor, mask: Tensor, classes: ClassTable) -> Tensor:
    """A photo (3, h, w) in the colours of a mask (h, w); undecided pixels are dark."""
    table = torch.zeros(max(256, classes.num_classes), 3)
    table[: classes.num_classes] = torch.tensor(classes.colours, dtype=torch.float32)
    table[IGNORE_INDEX] = 0
    colour = table[mask].permute(2, 0, 1)
    return ((1 - SHADE) * image.float() + SHADE * colour).round().to(torch.uint8)


def change(image: Tensor, before: Tensor, after: Tensor, truth: Tensor, known: bool) -> dict[str, Any]:
    """The pixels that a step changed, over a dim photo, and their shares; undecided pixels are not compared.

    Args:
        image: uint8 (3, h, w).
        before: classes (h, w) of the step before.
        after: of this one.
        truth: (h, w), 255 = void.
        known: whether there is a truth; without it changed pixels are of one colour.
    """
    counted = (after != IGNORE_INDEX) & ((truth != IGNORE_INDEX) | (not known))
    moved = counted & (before != after)
    better, worse = moved & (after == truth), moved & (before == truth)
    out = (0.35 * image.float().mean(0, keepdim=True)).expand(3, -1, -1).clone()
    for where, colour in ((moved, OTHER), (better, BETTER), (worse, WORSE)):
        out[:, where] = torch.tensor(colour, dtype=torch.float32)[:, None]
    total = max(int(counted.sum()), 1)
    shares = {"moved": int(moved.sum()) / total}
    if known:
        shares |= {"better": int(better.sum()) / total, "worse": int(worse.sum()) / total}
    return {"picture": data_uri(out.round().to(torch.uint8), "png", SIDE), "known": known, **shares}
