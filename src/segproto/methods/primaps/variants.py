"""Figures of all that an EM run holds: teacher and student, with and without flip and CRF, and the linear probe."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from segproto.data.pixels import to_colours
from segproto.evaluation.tally import report
from segproto.evaluation.validate import matched_report
from segproto.metrics.segmentation import confusion_matrix
from segproto.model.direction_head import DirectionHead, TeacherHead
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating
from segproto.refine.crf import dense_crf
from segproto.refine.regions import SETTINGS
from segproto.training.agreement import agreement
from segproto.training.figures import Figures
from segproto.training.procedures.map_images import fold_images
from segproto.training.procedures.require import require_head
from segproto.training.stage import StageContext

Logits = Callable[[Tensor], Tensor]


class Reader(NamedTuple):
    """What turns features into logits.

    Attributes:
        logits: of the categories, whose largest is predicted.
        for_crf: what the CRF gets in their place: of the k-means baseline the cosines, as released.
    """

    logits: Logits
    for_crf: Logits


@torch.no_grad()
def score_variants(context: StageContext) -> list[Figures]:
    """One confusion matrix a variant over all validation images, each matched once.

    See docs/specs/primaps.md#matching-and-figures.

    Returns:
        For each: ``name``, ``flip``, ``crf``, ``miou``, ``accuracy``, ``per_class`` and ``matching`` (not the probe).
    """
    model, fabric, dataset = context.segmenter, context.fabric, context.val_set
    assert dataset is not None
    readers = read_heads(model)
    size = max(dataset.classes.num_classes, model.head.num_classes)
    plans = [(name, flip, crf) for name in readers for flip in (False, True) for crf in (False, True)]
    plans = [plan for plan in plans if plan[0] != "probe" or not plan[2]]
    counts = torch.zeros(len(plans), size, size, dtype=torch.int64, device=fabric.device)
    with evaluating(model):
        for index in fold_images(dataset, rank=fabric.global_rank, world=fabric.world_size, title="variants"):
            sample = dataset[index]
            image, mask = sample.image.to(fabric.device), sample.mask.to(fabric.device)
            both = views(model, image)
            for number, (name, flip, crf) in enumerate(plans):
                read = readers[name].for_crf if crf else readers[name].logits
                labels = predicted(model, read(both[flip]), image, crf)
                counts[number] += confusion_matrix(labels, mask, size)
    reduce = agreement()
    return [
        {"name": name, "flip": flip, "crf": crf, **scored(name, reduce(table), context)}
        for (name, flip, crf), table in zip(plans, counts, strict=True)
    ]


def read_heads(model: Segmenter) -> dict[str, Reader]:
    """What turns features into logits, by name."""
    head = require_head(model, "found", DirectionHead)
    if not isinstance(head, TeacherHead):
        return {"teacher": Reader(head.bank.logits, head.bank.activations)}
    readers = {
        "teacher": Reader(head.bank.logits, head.bank.logits),
        "student": Reader(head.student.logits, head.student.logits),
    }
    if head.probe_weight is not None:
        readers["probe"] = Reader(head.probe, head.probe)
    return readers


def views(model: Segmenter, image: Tensor) -> tuple[Tensor, Tensor]:
    """Features (1, C, h, w) of a uint8 image (3, H, W), and their mean with those of its mirror image."""
    inputs = model.encoder.normalisation(image)[None]
    plain, mirrored = model.features(torch.cat([inputs, inputs.flip(-1)]))
    if (image.shape[-2], image.shape[-1]) == model.encoder.padded_size(image.shape[-2], image.shape[-1]):
        return plain[None], (plain + mirrored.flip(-1))[None] / 2
    # The padding of a mirror image lies on the other side: its cells are brought under those of the plain one.
    height, width = image.shape[-2:]
    padded = model.encoder.padded_size(height, width)
    full = torch.nn.functional.interpolate(mirrored[None], size=padded, mode="bilinear", align_corners=False)
    back = torch.nn.functional.pad(full[..., :height, :width].flip(-1), (0, padded[1] - width, 0, padded[0] - height))
    grid = torch.nn.functional.interpolate(back, size=plain.shape[-2:], mode="area")
    return plain[None], (plain[None] + grid) / 2


def predicted(model: Segmenter, logits: Tensor, image: Tensor, crf: bool) -> Tensor:
    """Categories (H, W)."""
    full = model.upsample(logits, (image.shape[-2], image.shape[-1]))
    if crf:
        return dense_crf(
            to_colours(image, model.encoder.pixels.show)[None], -full.log_softmax(1), SETTINGS, labels=True
        )[0]
    return full[0].argmax(0)


def scored(name: str, counts: Tensor, context: StageContext) -> Figures:
    """Scores of one confusion matrix; the probe knows the classes and needs no matching."""
    assert context.val_set is not None
    classes = context.val_set.classes
    if name == "probe":
        figures = report(counts[: classes.num_classes, : classes.num_classes], classes)
    else:
        figures = matched_report(counts, classes, context.segmenter.classes)
    return {key: value for key, value in figures.items() if key not in ("confusion", "categories")}
