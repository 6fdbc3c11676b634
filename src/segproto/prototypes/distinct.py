"""The nearest training cells of the prototypes of a class, no two of them in the same image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from segproto.prototypes.nearest import RunningNearest, nearest_first

KEYS = ("distance", "image", "cell", "grid", "feature")


class RunningDistinct(RunningNearest):
    """Per prototype its nearest images so far, one allowed cell each; :meth:`assigned` takes one for each.

    As many images are kept as a class has prototypes. More are not needed: if a prototype's image were none of them,
    one of them would be free, and nearer.

    Attributes:
        candidates: for each key of the state (P, k) or (P, k, n), nearest first; distance inf and image -1 where empty.
    """

    def __init__(self, class_of: Tensor, scale_of: Tensor, num_scales: int, dim: int) -> None:
        super().__init__(class_of, scale_of, num_scales, dim)
        self.most = int(torch.bincount(class_of).max())
        self.candidates = {key: value[:, None] for key, value in super().state_dict().items()}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Takes in the ``state_dict`` of another process that saw other images of the same set."""
        self._add({key: state[key].to(self.class_of.device) for key in KEYS})

    def state_dict(self) -> dict[str, Tensor]:
        """All candidates, to be sent and merged; each process has kept as many."""
        room = self.most - self.candidates["distance"].shape[1]
        empty = {key: value[:, None].expand(-1, room, *value.shape[1:]) for key, value in super().state_dict().items()}
        return {key: torch.cat([self.candidates[key], empty[key]], 1) for key in KEYS}

    def assigned(self) -> RunningNearest:
        """One cell for each prototype, with the least sum of squared distances.

        No image is taken twice by a class, or where it has fewer images than prototypes, none more often than needed.
        """
        chosen = torch.zeros_like(self.class_of)
        distance, image = (self.candidates[key].cpu().numpy() for key in ("distance", "image"))
        for rows in ((self.class_of == c).nonzero()[:, 0] for c in set(self.class_of.tolist())):
            places = one_each(distance[rows.cpu().numpy()], image[rows.cpu().numpy()])
            chosen[rows] = torch.from_numpy(places).to(chosen)
        found = RunningNearest(self.class_of, self.scale_of, self.num_scales, self.dim)
        rows = torch.arange(len(chosen), device=chosen.device)
        return found.load_state_dict({key: value[rows, chosen] for key, value in self.candidates.items()})

    def _take(self, distance: Tensor, image: Tensor, cell: Tensor, grid: Tensor, feature: Tensor) -> None:
        image = torch.where(torch.isfinite(distance), image, -1)
        values = (distance, image, cell, grid, feature)
        self._add({key: value[:, None] for key, value in zip(KEYS, values, strict=True)})

    def _add(self, more: Mapping[str, Tensor]) -> None:
        joined = {key: torch.cat([self.candidates[key], more[key]], 1) for key in KEYS}
        order = nearest_first(joined["distance"], joined["image"])[:, : self.most]
        rows = torch.arange(len(order), device=order.device)[:, None]
        self.candidates = {key: value[rows, order] for key, value in joined.items()}


def one_each(distance: NDArray[np.float32], image: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which candidate each prototype of a class takes, so that images are shared as little as can be.

    Args:
        distance: (M, k) squared distances, inf where there is no candidate.
        image: (M, k) their images, -1 where there is none.

    Returns:
        (M,) column; 0 where there is no candidate at all.
    """
    images = np.unique(image[image >= 0])
    if len(images) == 0:
        return np.zeros(len(distance), np.int64)
    held = np.isfinite(distance)
    cost = np.full((len(distance), len(images)), 1 + distance[held].sum(dtype=np.float64))  # more than all of them
    cost[held.nonzero()[0], np.searchsorted(images, image[held])] = distance[held]
    shared = -(-len(distance) // len(images))
    rows, taken = linear_sum_assignment(np.tile(cost, (1, shared)))
    found: NDArray[np.int64] = (image[rows] == images[taken % len(images)][:, None]).argmax(1)
    return found
