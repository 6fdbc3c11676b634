"""The training patch that each prototype is nearest to, for people to look at."""

from __future__ import annotations

import torch

from segproto.methods.nonparametric.config import TraceConfig
from segproto.methods.nonparametric.watching import warn_of_collapse
from segproto.model.figures import number_figures
from segproto.model.heads import NearestHead
from segproto.prototypes.health import cluster_health
from segproto.training.figures import Figures
from segproto.training.procedures.projection import search, searched_images, trace
from segproto.training.procedures.require import require_head
from segproto.training.stage import StageContext


@torch.no_grad()
def trace_prototypes(context: StageContext, config: TraceConfig) -> Figures:
    """Records the nearest cell of its class as each prototype's provenance; the prototypes stay as they are."""
    model = context.segmenter
    head = require_head(model, "trace", NearestHead)
    dataset, cache = searched_images(context, config.images)
    nearest = search(context, dataset, cache, config.membership, lambda features: head.distances(features)[0])
    model.provenance, model.patches = trace(model, dataset, nearest)
    gaps = nearest.distance[torch.isfinite(nearest.distance)].clamp_min(0).sqrt()
    bank = head.bank
    health = cluster_health(bank.vectors, bank.usage)
    collapsed = [model.classes.names[c] for c in health.collapsed.nonzero()[:, 0].tolist()]
    warn_of_collapse(collapsed)
    return {
        "prototypes": bank.num_prototypes,
        "prototypes_without_patch": bank.num_prototypes - len(gaps),
        "patch_gap_mean": float(gaps.mean()) if len(gaps) else None,
        "prototype_cosine": health.mean_cosine.tolist(),
        "prototype_entropy": health.entropy.nan_to_num(1).tolist(),
        "prototype_usage": health.usage.tolist(),
        "first_moved": bank.started.tolist(),
        "collapsed_classes": collapsed,
        **number_figures(model),
    }
