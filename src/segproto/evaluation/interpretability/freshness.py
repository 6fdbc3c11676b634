"""Whether every prototype still is the feature of the patch that its provenance names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from segproto.data.base import SegmentationDataset
from segproto.evaluation.interpretability.metric import SHARE, Metric, Subject, of_model
from segproto.evaluation.interpretability.views import encode
from segproto.metrics.accumulate import scored, share
from segproto.model.fingerprint import encoder_hash
from segproto.model.segmenter import Segmenter

TOLERANCE = 1e-4


@torch.no_grad()
def freshness(
    model: Segmenter,
    dataset: SegmentationDataset | None,
    *,
    recompute: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Compares the encoder's hash, and each prototype with its patch's feature, computed anew.

    Args:
        model: in eval mode.
        dataset: the training images the patches come from; None = not available.
        recompute: else only the hash is compared.
        progress: called with (images done, images).

    Returns:
        ``value``: share of the prototypes with a known patch whose squared distance to it is at most 1e-4;
        ``same_encoder``; ``largest_distance``; ``stale`` (their indices); ``unknown`` (prototypes without a source);
        ``missing_images``. Of prototypes that are means of features, distances are given but none is stale.
    """
    bank = model.head.bank
    provenance = model.provenance
    if bank is None:
        return scored(None, "the model has no prototypes")
    if provenance is None or not any(provenance.sources):
        return scored(None, "the model has no provenance: its prototypes were never projected")
    same = provenance.encoder_hash == encoder_hash(model.encoder)
    unknown = [p for p, source in enumerate(provenance.sources) if source is None]
    base: dict[str, Any] = {"same_encoder": same, "unknown": unknown, "prototypes": bank.num_prototypes}
    if not recompute or dataset is None:
        why = "not asked for" if dataset is not None else "the training images are not available"
        return scored(None, f"distances were not recomputed: {why}", **base)
    index_of = {name: i for i, name in enumerate(dataset.names)}
    prototypes_of: dict[str, list[int]] = {}
    for p, source in enumerate(provenance.sources):
        if source is not None:
            prototypes_of.setdefault(source.image, []).append(p)
    missing = sorted(set(prototypes_of) - set(index_of))
    distances: dict[int, float] = {}
    images = sorted(set(prototypes_of) & set(index_of), key=index_of.__getitem__)
    for done, name in enumerate(images, 1):
        distances |= _distances(model, dataset, index_of[name], prototypes_of[name])
        if progress is not None:
            progress(done, len(images))
    measured = [d for d in distances.values() if d < float("inf")]
    base |= {"missing_images": missing, "largest_distance": max(measured, default=None)}
    if model.head.relation == "near":
        return scored(None, "its prototypes are means, not features: the patch is only the nearest one", **base)
    stale = sorted(p for p, d in distances.items() if not d <= TOLERANCE)
    fresh = share(len(distances) - len(stale), len(distances))
    return scored(fresh, "no image of the provenance is in the training data", stale=stale, **base)


def _distances(model: Segmenter, dataset: SegmentationDataset, index: int, prototypes: list[int]) -> dict[int, float]:
    """Squared distance of each prototype to the feature of its cell; inf where the grid has no such cell."""
    bank = model.head.bank
    assert bank is not None
    assert model.provenance is not None
    image = model.encoder.normalisation(dataset[index].image)[None]
    features = model.head.cell_features(encode(model, image))
    distances = {}
    for p in prototypes:
        source = model.provenance.sources[p]
        assert source is not None
        row, column = source.cell
        if (features.shape[-2], features.shape[-1]) != tuple(source.grid):
            distances[p] = float("inf")
        elif bank.compares == "distance":
            feature = bank.own_features(features[0, :, row, column])[p]
            distances[p] = float((feature.double() - bank.vectors[p].double()).square().sum())
        else:
            cell = features[:, :, row : row + 1, column : column + 1]
            distances[p] = float(model.head.distances(cell)[0, p, 0, 0])
    return distances


def subject_freshness(subject: Subject) -> dict[str, Any]:
    """:func:`freshness` of what is looked at."""
    return freshness(
        subject.model,
        subject.sources,
        recompute=subject.config.freshness,
        progress=lambda done, total: subject.progress("patches", done, total),
    )


FRESHNESS = Metric(
    name="freshness",
    meaning="Share of prototypes that still are the feature of the training patch they claim to be.",
    how="Each patch is computed anew; squared distances of at most 1e-4 count. Also whether the encoder's hash is "
    "still the same.",
    unknown="the patch of the prototype is unknown, or was not computed anew",
    unit=SHARE,
    range=(0, 1),
    start=of_model(subject_freshness),
    sources=True,
)
