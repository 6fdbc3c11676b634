"""Accuracy of a model on a data set, at the annotations' own size and without augmentation (Porta et al. 2025)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segproto.data.base import ClassTable, Sample, SegmentationDataset
from segproto.errors import ConfigError, DataError
from segproto.evaluation.tally import Tally, report
from segproto.metrics.matching import hungarian
from segproto.model.crf_masks import crf_folder, masks_with_crf, write_mask
from segproto.model.features import BackboneFeatures
from segproto.model.field import Field
from segproto.model.images import look_at
from segproto.model.predict import OVERLAP, predict_bands
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating, field_mask
from segproto.refine.crf import CrfSettings


def validate(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    *,
    cache: BackboneFeatures | None = None,
    input_size: int | tuple[int, int] | None = None,
    window: int | None = None,
    overlap: float = OVERLAP,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crf: CrfSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
    rank: int = 0,
    world: int = 1,
    reduce: Callable[[Tensor], Tensor] | None = None,
    save_masks: Path | None = None,
) -> dict[str, Any]:
    """Scores a model: one confusion matrix over all images.

    Args:
        segmenter: the model; used in eval mode, its modes are put back.
        dataset: images and masks at native size.
        cache: cached backbone features of the same images; then the backbone does not run.
        input_size: what the model sees instead of the image's own size, as published protocols have it: a shorter side,
            aspect kept, or (height, width), stretched. Predictions are scored at native size all the same.
        window: sliding window, see :func:`segproto.model.predict.predict`; also overlap, scales and flip.
        overlap: share of a window that its neighbour sees too.
        scales: test-time scales.
        flip: test-time mirroring.
        crf: also score the masks after a dense CRF; images are then seen whole.
        progress: called with (images done, images) of this process.
        rank: this process scores images ``rank, rank + world, ...``.
        world: processes.
        reduce: sums a tensor over processes; needed if ``world > 1``.
        save_masks: folder for the predictions, ``<name>.png``, gray; those after a CRF go to ``<folder>-crf``.

    Returns:
        JSON-ready: ``miou``, ``accuracy``, ``void`` (share of the pixels that do not count), ``per_class`` (name, iou,
        pixels), ``confusion`` (rows = true class), ``images``, ``labels`` (where the masks come from), ``seconds``; if
        the instances of all images are known ``iiou``, for each class too; with a CRF the same of it as ``crf``.

    Raises:
        DataError: if the data set has other classes than the model, is empty or all void, or a file cannot be
            read: a score over fewer images than asked for would be another score, so none is skipped.
        ValueError: for a cache together with input_size, window, scales, flip or a CRF.
        ConfigError: for input_size together with window or scales, or a CRF with a window.
    """
    _check_views(cache is not None, input_size is not None, crf is not None, window, scales, flip)
    classes = dataset.classes
    if len(dataset) == 0:
        raise DataError(f"the {dataset.split} split is empty: nothing to evaluate")
    found = segmenter.found_categories
    if not found and classes.num_classes != segmenter.head.num_classes:
        raise DataError(
            f"the data set has {classes.num_classes} classes, the model {segmenter.head.num_classes}; "
            "evaluate on data with the model's classes"
        )
    start = time.perf_counter()
    device = next(segmenter.parameters()).device
    rows = max(classes.num_classes, segmenter.head.num_classes)
    tallies = [Tally(dataset, rows, device, instances=not found) for _ in range(1 if crf is None else 2)]
    indices = range(rank, len(dataset), world)
    options: dict[str, Any] = {"window": window, "overlap": overlap, "scales": scales, "flip": flip}
    with evaluating(segmenter):
        for done, index in enumerate(indices, 1):
            sample = dataset[index]
            if input_size is not None:
                options["scales"] = [seen_size(sample.image.shape[-2:], input_size)]
            predictions: Sequence[Tensor]
            if cache is not None:
                predictions = [_from_cache(segmenter, cache, index, sample)]
            elif crf is not None:
                predictions = masks_with_crf(segmenter, sample.image, crf, scales=options["scales"], flip=flip)
            else:
                predictions = [torch.cat(list(predict_bands(segmenter, look_at(sample.image), **options)))]
            for tally, prediction in zip(tallies, predictions, strict=True):
                tally.add(index, sample, prediction)
            if save_masks is not None:
                for prediction, folder in zip(predictions, (save_masks, crf_folder(save_masks)), strict=False):
                    write_mask(prediction, folder / f"{sample.name}.png")
            if progress is not None:
                progress(done, len(indices))
    scores = [_scores(tally, segmenter, reduce) for tally in tallies]
    size = {"images": len(dataset), "labels": dataset.label_source, "seconds": round(time.perf_counter() - start, 3)}
    return {**scores[0], **size, **({} if crf is None else {"crf": scores[1]})}


def _check_views(cached: bool, sized: bool, crf: bool, window: int | None, scales: Sequence[float], flip: bool) -> None:
    """Refuses ways to look at an image that do not go together."""
    if sized and (window is not None or tuple(scales) != (1.0,)):
        raise ConfigError("data.input_size fixes what the model sees: leave out window and scales, or set it to null")
    if crf and window is not None:
        raise ConfigError("a CRF sees the image whole: leave out window or the CRF")
    if cached and (sized or window is not None or tuple(scales) != (1.0,) or flip or crf):
        raise ValueError("cached features are of whole images at scale 1: no input_size, window, scales, flip or CRF")


def _scores(tally: Tally, segmenter: Segmenter, reduce: Callable[[Tensor], Tensor] | None) -> dict[str, Any]:
    """The figures of what was counted, over all processes."""
    dataset, counts = tally.dataset, tally.reduced(reduce)
    if not counts.any():
        raise DataError(
            f"no labelled pixel in the validation images (split {dataset.split}, {len(dataset)} of them): all "
            "is void; check the class values and void in classes.yaml, and data.split"
        )
    void = int(tally.void)
    if segmenter.found_categories:
        return matched_report(counts, dataset.classes, segmenter.classes, void)
    return report(counts, dataset.classes, void=void, instance_iou=tally.instance_scores(counts))


def matched_report(
    counts: Tensor, classes: ClassTable, categories: ClassTable, void: int | None = None
) -> dict[str, Any]:
    """:func:`report` of categories found without labels, each matched to at most one class (Hungarian, once).

    Args:
        counts: int64, square; rows = true classes, columns = categories.
        classes: of the labels.
        categories: of the model.
        void: pixels that do not count, if known.

    Returns:
        Also ``matching``: for each category its class (None if there are more categories than classes) and pixels, and
        ``categories``: the counts (rows = true classes) before the matching.
    """
    table = counts[: classes.num_classes, : categories.num_classes]
    matching = hungarian(table)
    pixels = table.sum(0).tolist()
    pairs = [
        {"category": name, "class": classes.names[c] if c >= 0 else None, "pixels": pixels[k]}
        for k, (name, c) in enumerate(zip(categories.names, matching.class_of.tolist(), strict=True))
    ]
    scores = report(matching.confusion, classes, matching.undecided, void=void)
    return {**scores, "matching": pairs, "categories": table.tolist()}


def seen_size(size: Sequence[int], input_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) an image of ``size`` is resized to: a shorter side, aspect kept, or just these numbers."""
    if isinstance(input_size, tuple):
        return input_size
    return input_size * size[0] // min(size), input_size * size[1] // min(size)


def _from_cache(segmenter: Segmenter, cache: BackboneFeatures, index: int, sample: Sample) -> Tensor:
    """uint8 (H, W) from cached features."""
    device = next(segmenter.parameters()).device
    features = segmenter.encoder.from_backbone(cache.get(index, False)[None].to(device).float())
    size = (sample.mask.shape[-2], sample.mask.shape[-1])
    return field_mask([Field.over(segmenter.head(features)[0].float(), segmenter.encoder, size, size)])
