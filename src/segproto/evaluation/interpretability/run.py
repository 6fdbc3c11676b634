"""Runs the interpretability metrics of a model over a data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.data.subset import spread
from segproto.errors import DataError
from segproto.evaluation.interpretability.config import InterpretabilityConfig
from segproto.evaluation.interpretability.metric import Metric, Progress, Subject, Suite, quiet
from segproto.evaluation.interpretability.table import METRICS
from segproto.evaluation.interpretability.views import look
from segproto.evaluation.same_classes import require_same_classes
from segproto.metrics.accumulate import scored
from segproto.model.features import BackboneFeatures
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating

Gather = Callable[[dict[str, Tensor]], list[dict[str, Tensor]]]


def interpret(
    model: Segmenter,
    dataset: SegmentationDataset,
    config: InterpretabilityConfig | None = None,
    *,
    sources: SegmentationDataset | None = None,
    cache: BackboneFeatures | None = None,
    progress: Progress | None = None,
    rank: int = 0,
    world: int = 1,
    gather: Gather | None = None,
) -> dict[str, Any]:
    """All interpretability metrics of a model.

    Args:
        model: any artefact; of a black box only completeness, context and cost are defined.
        dataset: the images; with part maps also consistency, stability and purity are defined.
        config: what is measured; None = everything with the defaults.
        sources: the training images that the prototypes' patches come from, for freshness.
        cache: cached backbone features of ``dataset``.
        progress: called with (what, images done, images).
        rank: this process looks at images ``rank, rank + world, ...`` of those chosen.
        world: processes.
        gather: from a state dict to those of all processes, in rank order; needed if ``world > 1``.

    Returns:
        JSON-ready: ``metrics`` (name to a dict with ``value``, a ``reason`` where there is none, ``meaning``, ``unit``
        and details), ``images``, ``settings``, ``seconds``.

    Raises:
        ConfigError: ``leave_out`` names an unknown class.
        DataError: other classes than the model's, no image, or a part map that does not fit its image.
    """
    config = config or InterpretabilityConfig()
    start = time.perf_counter()
    check_classes(model, dataset)
    subject = Subject(model, dataset, config, sources, progress or quiet)
    chosen = [metric for metric in METRICS.values() if config.wants(metric.name)]
    missing = {metric.name: metric.missing(subject) for metric in chosen}
    with evaluating(model):
        suites = started([metric for metric in chosen if missing[metric.name] is None], subject)
        images = spread(len(dataset), config.images)
        few = [images[i] for i in spread(len(images), config.faithfulness_images)]
        for slow, indices, title in ((False, images, "looking"), (True, few, "deleting")):
            own = [suite for metric, suite in suites if metric.few == slow and suite.looks]
            show(list(dict.fromkeys(own)), subject, indices[rank::world], cache, title)
        looked = dict.fromkeys(suite for _, suite in suites if suite.looks)
        if gather is not None and world > 1:
            merge_all(list(looked), gather, rank)
        figures = {metric.name: metric.read(suite) for metric, suite in suites}
    metrics = {m.name: m.explained(figures.get(m.name) or scored(None, str(missing[m.name]))) for m in chosen}
    deleted = len(few) if any(metric.few for metric, _ in suites) else 0
    return {
        "metrics": metrics,
        "classes": list(dataset.classes.names),
        "images": len(images),
        "images_deleted": deleted,
        "settings": config.model_dump(mode="json"),
        "seconds": round(time.perf_counter() - start, 3),
    }


def check_classes(model: Segmenter, dataset: SegmentationDataset) -> None:
    """Refuses data without images, or with other classes than the model's.

    Raises:
        DataError: for either.
    """
    if len(dataset) == 0:
        raise DataError(f"the {dataset.split} split is empty: nothing to look at")
    require_same_classes(model, dataset)


def started(metrics: Sequence[Metric], subject: Subject) -> list[tuple[Metric, Suite]]:
    """Each metric with what accumulates it; metrics with one factory share what it makes."""
    suites: dict[Callable[[Subject], Suite], Suite] = {}
    for metric in metrics:
        if metric.start not in suites:
            suites[metric.start] = metric.start(subject)
    return [(metric, suites[metric.start]) for metric in metrics]


def show(
    suites: Sequence[Suite], subject: Subject, indices: Sequence[int], cache: BackboneFeatures | None, title: str
) -> None:
    """Shows images to suites."""
    mine = indices if suites else []
    parts = bool(subject.dataset.part_names)
    for done, index in enumerate(mine, 1):
        view = look(subject.model, subject.dataset, index, cache, parts=parts)
        for suite in suites:
            suite.update(view)
        subject.progress(title, done, len(mine))


def merge_all(suites: Sequence[Suite], gather: Gather, rank: int) -> None:
    """Brings together what all processes saw."""
    for suite in suites:
        for other, state in enumerate(gather(suite.state_dict())):
            if other != rank:
                suite.merge(state)
