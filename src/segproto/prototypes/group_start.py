"""Where groups can begin: from what a readout of the prototypes already knows, instead of at random."""

from __future__ import annotations

import torch
from torch import Tensor

from segproto.prototypes.grouping import Grouping

ROUNDS = 20  # of Lloyd's algorithm, on a dozen points each
LEAST = 1e-3  # weight of a prototype whose own class's readout is not positive, before rows are made to sum to 1


@torch.no_grad()
def group_coactivating_(grouping: Grouping, activations: Tensor, readout: Tensor) -> None:
    """Sets each class's groups to clusters of prototypes that fire together, weighted by the readout, in place.

    Prototypes are compared by the rows of their correlation matrix within the class, and clustered by k-means that
    starts at the farthest rows (so that nothing is random). A group's weights are its prototypes' readout weights for
    their own class, scaled to sum to 1. A class with fewer prototypes than groups gives the rest of its groups all.

    Args:
        grouping: G groups of K classes' prototypes.
        activations: (N, P) of the prototypes at N cells.
        readout: (C, P), weight of each prototype in each class's logit.
    """
    classes = grouping.class_of_group[:: grouping.groups].tolist()
    weights = torch.zeros_like(grouping.weights)
    for k, class_id in enumerate(classes):
        members = grouping.members[k][grouping.mask[k]]
        own = readout[class_id, members].clamp_min(LEAST).to(weights.dtype)
        cluster = coactivation_clusters(activations[:, members], grouping.groups)
        for group in range(grouping.groups):
            chosen = cluster == group
            row = own * chosen if bool(chosen.any()) else own
            weights[k, group, : len(members)] = row / row.sum()
    grouping.weights.copy_(weights)


def coactivation_clusters(activations: Tensor, clusters: int) -> Tensor:
    """(n,) cluster of each of n prototypes by whom it fires together with, from their activations (N, n)."""
    values = activations.double()
    values = values - values.mean(0)
    values = values / values.norm(dim=0).clamp_min(1e-12)
    rows = values.T @ values
    centres = rows[_farthest(rows, clusters)]
    cluster = torch.cdist(rows, centres).argmin(1)
    for _ in range(ROUNDS):
        for c in range(len(centres)):
            if bool((cluster == c).any()):
                centres[c] = rows[cluster == c].mean(0)
        cluster = torch.cdist(rows, centres).argmin(1)
    return cluster


def _farthest(rows: Tensor, wanted: int) -> list[int]:
    """Indices of rows, each the farthest from those before it; the first is the one farthest from the mean."""
    chosen = [int((rows - rows.mean(0)).norm(dim=1).argmax())]
    while len(chosen) < min(wanted, len(rows)):
        chosen.append(int(torch.cdist(rows, rows[chosen]).amin(1).argmax()))
    return chosen
