"""Accuracy of a model on a data set, at the annotations' own size and without augmentation (Porta et al. 2025)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from segproto.data.base import ClassTable, Sample, SegmentationDataset, label_dtype
from segproto.data.picture import as_read
from segproto.errors import DataError
from segproto.evaluation.protocol import Protocol
from segproto.evaluation.same_classes import require_same_classes
from segproto.evaluation.tally import Tally, report
from segproto.metrics.matching import hungarian
from segproto.model.crf_masks import crf_folder, masks_with_crf, write_mask
from segproto.model.features import BackboneFeatures
from segproto.model.field import Field
from segproto.model.layout import channels_last
from segproto.model.predict import stacked
from segproto.model.segmenter import Segmenter
from segproto.model.together import CHUNK, Look, chunk_size, chunked, in_order, logits_of, look, spare_worker
from segproto.model.windows import evaluating, field_mask

PLAIN = Protocol()


def validate(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    protocol: Protocol = PLAIN,
    *,
    cache: BackboneFeatures | None = None,
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
        protocol: how the model looks at an image.
        cache: cached backbone features of the same images; then the backbone does not run.
        progress: called with (images done, images) of this process.
        rank: this process scores its share of the images (:func:`segproto.model.together.chunked`).
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
        ValueError: for a cache together with a protocol that is not plain.
    """
    if cache is not None and not protocol.whole:
        raise ValueError("cached features are of whole images at scale 1: no input_size, window, scales, flip or CRF")
    classes = dataset.classes
    if len(dataset) == 0:
        raise DataError(f"the {dataset.split} split is empty: nothing to evaluate")
    unlabelled = segmenter.found_categories
    if not unlabelled:
        require_same_classes(segmenter, dataset)
    start = time.perf_counter()
    device = next(segmenter.parameters()).device
    rows = max(classes.num_classes, segmenter.head.num_classes)
    tallies = [Tally(dataset, rows, device, instances=not unlabelled) for _ in range(1 if protocol.crf is None else 2)]
    indices = chunked(len(dataset), rank, world)
    with evaluating(segmenter), channels_last(segmenter):
        for done, (index, sample, predictions) in enumerate(predicted(segmenter, dataset, indices, protocol, cache), 1):
            for tally, prediction in zip(tallies, predictions, strict=True):
                tally.add(index, sample, prediction)
            if save_masks is not None:
                for prediction, folder in zip(predictions, (save_masks, crf_folder(save_masks)), strict=False):
                    write_mask(prediction, folder / f"{sample.name}.png")
            if progress is not None:
                progress(done, len(indices))
    scores = [_scores(tally, segmenter, reduce) for tally in tallies]
    size = {"images": len(dataset), "labels": dataset.label_source, "seconds": round(time.perf_counter() - start, 3)}
    return {**scores[0], **size, **({} if protocol.crf is None else {"crf": scores[1]})}


def predicted(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    indices: Sequence[int],
    protocol: Protocol,
    cache: BackboneFeatures | None,
) -> Iterator[tuple[int, Sample, Sequence[Tensor]]]:
    """Images with their masks (H, W), and with a CRF also those after it. They are read while the network runs.

    Args: as in :func:`validate`; ``indices`` are those of the images.
    """
    workers = spare_worker(next(segmenter.parameters()).device)
    samples = in_order((partial(_read, dataset, index) for index in indices), workers, CHUNK, _bytes)
    if cache is not None:
        yield from ((i, sample, [_from_cache(segmenter, cache, i, sample)]) for i, sample in samples)
    elif protocol.crf is not None:
        for index, sample in samples:
            scales = protocol.views(*sample.image.shape[-2:])["scales"]
            masks = masks_with_crf(segmenter, sample, protocol.crf, scales=scales, flip=protocol.flip)
            yield index, sample, masks
    else:
        yield from in_order(_masks(segmenter, samples, protocol, chunk_size(len(dataset))), workers, 2)


def _read(dataset: SegmentationDataset, index: int) -> tuple[int, Sample]:
    return index, dataset[index]


def _bytes(read: tuple[int, Sample]) -> int:
    return read[1].image.nbytes + read[1].mask.nbytes


def _masks(
    segmenter: Segmenter, samples: Iterable[tuple[int, Sample]], protocol: Protocol, size: int
) -> Iterator[Callable[[], tuple[int, Sample, Sequence[Tensor]]]]:
    """For each image what makes its mask of logits on the grid, while the network runs on the next ones."""
    window, overlap, flip = protocol.window, protocol.overlap, protocol.flip

    def looks() -> Iterator[Look[tuple[int, Sample]]]:
        for index, sample in samples:
            scales = protocol.views(*sample.image.shape[-2:])["scales"]
            yield look(segmenter, as_read(sample), (index, sample), index // size, window=window, scales=scales)

    def mask(one: Look[tuple[int, Sample]], bands: Iterable[Tensor]) -> tuple[int, Sample, Sequence[Tensor]]:
        classes = (logits.max(0)[1].to(label_dtype(len(logits))) for logits in bands)
        return *one.key, [stacked(classes, one.picture, label_dtype(segmenter.head.num_classes))]

    for one, bands in logits_of(segmenter, looks(), window=window, overlap=overlap, flip=flip):
        if one.pixels is not None:
            yield partial(mask, one, bands)
        else:  # the network runs for each band, and only its classes are kept
            made = mask(one, bands)
            yield lambda made=made: made  # type: ignore[misc]


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


def _from_cache(segmenter: Segmenter, cache: BackboneFeatures, index: int, sample: Sample) -> Tensor:
    """uint8 (H, W) from cached features."""
    device = next(segmenter.parameters()).device
    features = segmenter.encoder.from_backbone(cache.get(index, False)[None].to(device).float())
    size = (sample.mask.shape[-2], sample.mask.shape[-1])
    return field_mask([Field.over(segmenter.head(features)[0].float(), segmenter.encoder, size, size)])
