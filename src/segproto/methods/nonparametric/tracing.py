"""The training patch that each prototype is nearest to, for people to look at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segproto.methods.nonparametric.config import TraceConfig
from segproto.model.heads import NearestHead
from segproto.prototypes.health import COLLAPSED, cluster_health
from segproto.training.procedures.projection import search, searched_images, trace
from segproto.training.progress import current
from segproto.training.stage import StageContext


@torch.no_grad()
def trace_prototypes(context: StageContext, config: TraceConfig) -> dict[str, Any]:
    """Records the nearest cell of its class as each prototype's provenance; the prototypes stay as they are."""
    model = context.segmenter
    head = model.head
    assert isinstance(head, NearestHead)
    dataset, cache = searched_images(context, config.images)

    def distances(features: Tensor) -> Tensor:
        return 2 - 2 * head.activations(head.cell_features(features))[0]  # of unit vectors

    nearest = search(context, dataset, cache, config.membership, distances)
    model.provenance, model.patches = trace(model, dataset, nearest)
    found = nearest.distance[torch.isfinite(nearest.distance)].clamp_min(0).sqrt()
    health = cluster_health(head.bank.vectors, head.bank.vectors.new_ones(head.num_classes, head.bank.per_class))
    collapsed = [model.classes.names[c] for c in health.collapsed.nonzero()[:, 0].tolist()]
    if collapsed:
        current().line(
            f"warning: the prototypes of {', '.join(collapsed)} have become one (mean cosine above {COLLAPSED}); "
            "set stages.seed.start=features, or fewer model.prototypes"
        )
    return {
        "prototypes": head.bank.num_prototypes,
        "prototypes_without_patch": head.bank.num_prototypes - len(found),
        "patch_gap_mean": float(found.mean()) if len(found) else None,
        "prototype_cosine": health.mean_cosine.tolist(),
        "collapsed_classes": collapsed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "prototype_numbers": head.bank.vectors.numel(),
    }
