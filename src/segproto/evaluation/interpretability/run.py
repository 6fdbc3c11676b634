"""Runs all interpretability metrics of a model over a data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.data.base import ClassTable, SegmentationDataset
from segproto.errors import ConfigError, DataError
from segproto.evaluation.interpretability.completeness import CompletenessSuite
from segproto.evaluation.interpretability.config import InterpretabilityConfig
from segproto.evaluation.interpretability.cost import cost_card
from segproto.evaluation.interpretability.faithfulness import FaithfulnessSuite
from segproto.evaluation.interpretability.freshness import freshness
from segproto.evaluation.interpretability.grid_suite import GridSuite
from segproto.evaluation.interpretability.meanings import MEANINGS, UNKNOWN
from segproto.evaluation.interpretability.sanity import SanitySuite
from segproto.evaluation.interpretability.scales import ScaleSuite, scale_rates
from segproto.evaluation.interpretability.views import View, look, spread
from segproto.metrics.accumulate import scored
from segproto.metrics.sparsity import sparsity
from segproto.metrics.usage import prototype_distances
from segproto.model.evidence import bank_of
from segproto.model.features import BackboneFeatures
from segproto.model.heads import GroupedHead, NearestHead, PrototypeHead
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating

HEADLINE = 0.05  # readout weight above which the one figure for sparsity counts
NO_PROTOTYPES = "the model has no prototypes (a black box)"
Gather = Callable[[dict[str, Tensor]], list[dict[str, Tensor]]]


class Suite(Protocol):
    """What accumulates over images and processes."""

    def update(self, view: View) -> None: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def merge(self, state: dict[str, Tensor]) -> None: ...


def interpret(
    model: Segmenter,
    dataset: SegmentationDataset,
    config: InterpretabilityConfig | None = None,
    *,
    sources: SegmentationDataset | None = None,
    cache: BackboneFeatures | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    rank: int = 0,
    world: int = 1,
    gather: Gather | None = None,
) -> dict[str, Any]:
    """All interpretability metrics of a model.

    Args:
        model: any artefact; of a black box only completeness and cost are defined.
        dataset: the images; with part maps also consistency, stability and purity are defined.
        config: what is measured; None = everything with the defaults.
        sources: the training images that the prototypes' patches come from, for freshness.
        cache: cached backbone features of ``dataset``.
        progress: called with (what, images done, images).
        rank: this process looks at images ``rank, rank + world, ...`` of those chosen.
        world: processes.
        gather: from a state dict to those of all processes, in rank order; needed if ``world > 1``.

    Returns:
        JSON-ready: ``metrics`` (name to a dict with ``value``, a ``reason`` where there is none, ``meaning`` and
        details), ``images``, ``settings``, ``seconds``.

    Raises:
        ConfigError: ``leave_out`` names an unknown class.
        DataError: other classes than the model's, no image, or a part map that does not fit its image.
    """
    config = config or InterpretabilityConfig()
    start = time.perf_counter()
    _check(model, dataset)
    share = {"rank": rank, "world": world}
    say = progress or (lambda title, done, total: None)
    with evaluating(model):
        indices = spread(len(dataset), config.images)
        few = [indices[i] for i in spread(len(indices), config.faithfulness_images)]
        suites, slow = build_suites(model, dataset, config)
        run_suites(list(suites.values()), model, dataset, indices, cache, say, "looking", **share)
        run_suites(list(slow.values()), model, dataset, few, cache, say, "deleting", **share)
        if gather is not None and world > 1:
            for suite in (*suites.values(), *slow.values()):
                for other, state in enumerate(gather(suite.state_dict())):
                    if other != rank:
                        suite.merge(state)
        found = compute(suites, slow, model, dataset.classes, config)
        if config.wants("freshness"):
            bar = lambda done, total: say("patches", done, total)  # noqa: E731
            found["freshness"] = freshness(model, sources, recompute=config.freshness, progress=bar)
        if config.wants("cost"):
            found["cost"] = cost_card(model, dataset[indices[0]])
    metrics = {name: explained(name, found, model, dataset) for name in MEANINGS if config.wants(name)}  # type: ignore[arg-type]
    settings = config.model_dump(mode="json")
    seconds = round(time.perf_counter() - start, 3)
    counts = {"images": len(indices), "images_deleted": len(few) if slow else 0}
    classes = list(dataset.classes.names)
    return {"metrics": metrics, "classes": classes, **counts, "settings": settings, "seconds": seconds}


def _check(model: Segmenter, dataset: SegmentationDataset) -> None:
    if len(dataset) == 0:
        raise DataError(f"the {dataset.split} split is empty: nothing to look at")
    if dataset.classes.num_classes != model.head.num_classes:
        raise DataError(
            f"the data set has {dataset.classes.num_classes} classes, the model {model.head.num_classes}; "
            "evaluate on data with the model's classes"
        )


def build_suites(
    model: Segmenter, dataset: SegmentationDataset, config: InterpretabilityConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those that look at every image, and those that look at few."""
    suites: dict[str, Any] = {}
    slow: dict[str, Any] = {}
    if config.wants("completeness"):
        suites["completeness"] = CompletenessSuite(config.pixels, config.seed)
    if bank_of(model.head) is None:
        return suites, slow
    parts = max(dataset.part_names, default=-1) + 1
    suites["grid"] = GridSuite(model, config, parts)
    rates = scale_rates(model)
    if rates is not None and config.wants("equivariance"):
        suites["equivariance"] = ScaleSuite(model, config, rates)
    if config.wants("faithfulness"):
        slow["faithfulness"] = FaithfulnessSuite(model, config)
    if config.wants("sanity"):
        slow["sanity"] = SanitySuite(model, config)
    return suites, slow


def run_suites(
    suites: Sequence[Suite],
    model: Segmenter,
    dataset: SegmentationDataset,
    indices: Sequence[int],
    cache: BackboneFeatures | None,
    say: Callable[[str, int, int], None],
    title: str,
    *,
    rank: int,
    world: int,
) -> None:
    """Shows this process's share of the images to all suites."""
    mine = indices[rank::world] if suites else []
    parts = bool(dataset.part_names)
    for done, index in enumerate(mine, 1):
        view = look(model, dataset, index, cache, parts=parts)
        for suite in suites:
            suite.update(view)
        say(title, done, len(mine))


def compute(
    suites: dict[str, Any],
    slow: dict[str, Any],
    model: Segmenter,
    classes: ClassTable,
    config: InterpretabilityConfig,
) -> dict[str, Any]:
    """All figures by metric."""
    found: dict[str, Any] = {}
    head, bank = model.head, bank_of(model.head)
    for name, suite in (suites | slow).items():
        found |= suite.compute(_leave_out(config, classes)) if name == "grid" else {name: suite.compute()}
    if bank is not None:
        vectors = bank.vectors.detach().flatten(0, -2)
        vectors = F.normalize(vectors, dim=1) if isinstance(head, NearestHead) else vectors  # compared as directions
        found["distances"] = prototype_distances(vectors, bank.class_of, bank.scale_of, bank.num_classes)
    if isinstance(head, PrototypeHead | GroupedHead):
        groups = head.grouping.dense().detach().cpu() if isinstance(head, GroupedHead) else None
        rows = sparsity(head.readout.detach().cpu(), groups, config.sparsity_thresholds)
        first = next((row for row in rows if row["threshold"] >= HEADLINE), rows[-1])
        found["sparsity"] = {"value": first["value"], "threshold": first["threshold"], "per_threshold": rows}
    elif isinstance(head, NearestHead):
        per = head.bank.per_class
        found["sparsity"] = {"value": float(per), "note": "only the nearest prototype of a class counts at a pixel"}
    if "health" in found:
        known = [s for s in model.provenance.sources if s is not None] if model.provenance is not None else []
        gaps = torch.tensor([max(s.distance, 0.0) for s in known], dtype=torch.float64).sqrt()
        gap = {"mean": float(gaps.mean()), "largest": float(gaps.max())} if known else None
        found["health"] |= {"duplicates": found["distances"]["duplicates"], "projection_gap": gap}
        if gap is None:
            found["health"]["projection_gap_reason"] = "the model has no provenance"
    return found


def _leave_out(config: InterpretabilityConfig, classes: ClassTable) -> Tensor:
    """bool (C,)."""
    for name in config.leave_out:
        if name not in classes.names:
            raise ConfigError(f"interpretability.leave_out: {name!r} is no class; there are {', '.join(classes.names)}")
    return torch.tensor([name in config.leave_out for name in classes.names])


def explained(name: str, found: dict[str, Any], model: Segmenter, dataset: SegmentationDataset) -> dict[str, Any]:
    """A metric's figures with its meaning; where it (``reason``) or a detail of it (``null``) is unknown, why."""
    figures = found.get(name, scored(None, _why_not(name, model, dataset)))
    gaps = {"null": UNKNOWN[name]} if "reason" not in figures and has_gaps(figures) else {}
    return {**figures, **gaps, "meaning": MEANINGS[name]}


def has_gaps(value: Any) -> bool:
    """Whether a ``None`` lies anywhere inside."""
    if isinstance(value, dict):
        return any(has_gaps(item) for item in value.values())
    return value is None or (isinstance(value, list) and any(has_gaps(item) for item in value))


def _why_not(name: str, model: Segmenter, dataset: SegmentationDataset) -> str:
    bank = bank_of(model.head)
    if bank is None:
        return NO_PROTOTYPES
    if name in ("consistency", "stability", "purity") and not dataset.part_names:
        return "the data have no part maps: name a part table with data.parts=..."
    if name == "group_overlap":
        return "the model has no groups"
    if name == "equivariance":
        return "the model has one scale" if bank.num_scales < 2 else "encoder.rates tells no field of view per scale"
    return "not measured"
