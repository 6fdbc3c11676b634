"""How many prototypes bear on a class: readout weights above thresholds."""

from __future__ import annotations

import math
from typing import Any

from segproto.evaluation.interpretability.metric import Metric, Subject, of_model
from segproto.metrics.accumulate import scored
from segproto.metrics.sparsity import sparsity

HEADLINE = 0.05  # readout weight above which the one figure counts


def model_sparsity(subject: Subject) -> dict[str, Any]:
    """The figures at all thresholds; ``value`` at the first one that is at least 0.05."""
    head, bank, grouping = subject.model.head, subject.prototypes, subject.grouping
    weights = head.unit_weights()
    if head.decides == "nearest":
        note = "only the nearest prototype of a class counts at a pixel"
        return {"value": bank.num_prototypes / bank.num_classes, "note": note}
    if weights is None:
        return scored(None, "not measured")
    groups = None if grouping is None else grouping.dense().detach().cpu()
    rows = sparsity(weights.detach().cpu(), groups, subject.config.sparsity_thresholds)
    first = next((row for row in rows if row["threshold"] >= HEADLINE), rows[-1])
    return {"value": first["value"], "threshold": first["threshold"], "per_threshold": rows}


SPARSITY = Metric(
    name="sparsity",
    meaning="Mean number of prototypes that bear on a class's logit at readout weights above a threshold: "
    "lower means fewer patches to look at to understand a class.",
    how="By readout weights (or, behind groups, members of groups). The published threshold is unknown, so there are "
    "several; the value is that at 0.05.",
    unknown="not defined for this kind of head",
    unit="prototypes per class",
    range=(0, math.inf),
    start=of_model(model_sparsity),
)
