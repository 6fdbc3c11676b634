"""Where groups can begin: from what a readout of the prototypes already knows, instead of at random."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from segproto.prototypes.grouping import Grouping

ROUNDS = 20  # of Lloyd's algorithm, on a dozen points each
STEPS = 100  # of L-BFGS
LEAST = 1e-3  # weight of a prototype whose own class's readout is not positive, before rows are made to sum to 1
SHARE = 0.99  # of a group's activations stay as they are in the fit: a prototype's own patch has 1e4, its neighbours 3


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


@torch.no_grad()
def fitted_readout(units: Tensor, logits: Tensor, ridge: float = 1e-3) -> Tensor:
    """The linear readout that comes closest to given logits, in closed form (ridge regression).

    Args:
        units: (N, U), group activations at N cells; the largest 1 % of each group are cut to the next smaller one.
        logits: (N, C) to come close to, up to a number per cell, which no softmax sees.
        ridge: penalty of the squared weights, in units of the mean squared activation.

    Returns:
        (C, U) in the dtype of ``units``.
    """
    x = units.double()
    x = torch.minimum(x, x.kthvalue(max(1, int(SHARE * len(x))), dim=0).values)
    y = logits.double()
    y = y - y.mean(1, keepdim=True)
    gram = x.T @ x
    penalty = ridge * gram.diagonal().mean().clamp_min(1e-12) * torch.eye(len(gram), dtype=x.dtype, device=x.device)
    weight: Tensor = torch.linalg.solve(gram + penalty, x.T @ y).T.to(units.dtype)
    return weight


def distilled_readout(units: Tensor, logits: Tensor, start: Tensor) -> Tensor:
    """The linear readout whose class probabilities come closest to those of given logits (Kullback-Leibler).

    Squared differences of logits (:func:`fitted_readout`) count most where logits are large, where nothing is in doubt.
    Probabilities ask for exactness where classes compete. The problem is convex, and L-BFGS needs no rates.

    Args:
        units: (N, U), group activations at N cells.
        logits: (N, C) whose softmax to come close to.
        start: (C, U), a readout to begin at.

    Returns:
        (C, U), no worse than ``start``.
    """
    wanted = logits.float().softmax(1)
    weight = start.detach().float().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weight], max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe")

    def divergence() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(units.float() @ weight.T, wanted)
        torch.autograd.backward(loss)
        return loss

    with torch.enable_grad():
        optimizer.step(divergence)  # type: ignore[no-untyped-call]
    return weight.detach().to(start.dtype)
