"""The interpretability metrics, in the order they are shown in: a line each."""

from __future__ import annotations

from segproto.evaluation.interpretability.carriers import CARRIERS
from segproto.evaluation.interpretability.completeness import COMPLETENESS
from segproto.evaluation.interpretability.context import CONTEXT, POSITION
from segproto.evaluation.interpretability.cost import COST
from segproto.evaluation.interpretability.equivariance import EQUIVARIANCE
from segproto.evaluation.interpretability.faithfulness import FAITHFULNESS
from segproto.evaluation.interpretability.freshness import FRESHNESS
from segproto.evaluation.interpretability.maps import COMPONENTS, GROUP_OVERLAP, PROTOTYPE_OVERLAP
from segproto.evaluation.interpretability.metric import Metric
from segproto.evaluation.interpretability.parts import CONSISTENCY, PURITY, STABILITY
from segproto.evaluation.interpretability.sanity import SANITY
from segproto.evaluation.interpretability.sparsity import SPARSITY
from segproto.evaluation.interpretability.usage import COVERAGE, DISTANCES, HEALTH, NEAREST, NEIGHBOURS, POINTING
from segproto.table import Table

METRICS: Table[Metric] = Table(
    "metric",
    (
        CONSISTENCY,
        STABILITY,
        SPARSITY,
        CARRIERS,
        GROUP_OVERLAP,
        PROTOTYPE_OVERLAP,
        COMPONENTS,
        EQUIVARIANCE,
        PURITY,
        POINTING,
        POSITION,
        COVERAGE,
        HEALTH,
        DISTANCES,
        NEIGHBOURS,
        NEAREST,
        FAITHFULNESS,
        SANITY,
        CONTEXT,
        COMPLETENESS,
        FRESHNESS,
        COST,
    ),
    "segproto.metrics",
)
