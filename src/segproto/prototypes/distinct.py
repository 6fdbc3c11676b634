"""The nearest training cells of the prototypes of a class, no two of them in the same image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from segproto.prototypes.nearest import RunningNearest, nearest_first


class RunningDistinct:
    """Per prototype its nearest images so far, one allowed cell each; :meth:`found` takes one for each.

    As many images are kept as a class has prototypes. More are not needed: if a prototype's image were none of them,
    one of them would be free, and nearer.

    Attributes:
        class_of, scale_of, num_scales, dim: of the prototypes.
        candidates: what :class:`segproto.prototypes.nearest.RunningNearest` has, (P, k) or (P, k, n) of each, nearest
            first; distance inf and image -1 where empty.
    """

    def __init__(self, class_of: Tensor, scale_of: Tensor, num_scales: int, dim: int) -> None:
        self.class_of, self.scale_of, self.num_scales, self.dim = class_of, scale_of, num_scales, dim
        most = int(torch.bincount(class_of, minlength=1).max())
        empty = self._alone().state_dict()
        self.candidates = {key: torch.stack([value] * most, 1) for key, value in empty.items()}

    def update(self, distances: Tensor, allowed: Tensor, features: Tensor, image: int) -> None:
        """Takes one image in, see :meth:`segproto.prototypes.nearest.RunningNearest.update`."""
        one = self._alone()
        one.update(distances, allowed, features, image)
        self.merge({key: value[:, None] for key, value in one.state_dict().items()})

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Takes in the ``state_dict`` of another process that saw other images of the same set."""
        joined = {key: torch.cat([value, state[key].to(value.device)], 1) for key, value in self.candidates.items()}
        order = nearest_first(joined["distance"], joined["image"])[:, : self.candidates["image"].shape[1]]
        rows = torch.arange(len(order), device=order.device)[:, None]
        self.candidates = {key: value[rows, order] for key, value in joined.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """All candidates, to be sent and merged."""
        return self.candidates

    def found(self) -> RunningNearest:
        """One cell for each prototype, of as many images as there are, see :func:`one_each`."""
        chosen = torch.zeros_like(self.class_of)
        host = [value.cpu().numpy() for value in (self.candidates["distance"], self.candidates["image"], self.scale_of)]
        for rows in ((self.class_of == c).nonzero()[:, 0] for c in set(self.class_of.tolist())):
            own = rows.cpu().numpy()
            chosen[rows] = torch.from_numpy(one_each(*(value[own] for value in host))).to(chosen)
        every = torch.arange(len(chosen), device=chosen.device)
        return self._alone().load_state_dict({key: value[every, chosen] for key, value in self.candidates.items()})

    def _alone(self) -> RunningNearest:
        return RunningNearest(self.class_of, self.scale_of, self.num_scales, self.dim)


def one_each(distance: NDArray[np.float32], image: NDArray[np.int64], scale: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which candidate each prototype of a class takes.

    Where there are images enough, each takes another one, and the sum of squared distances is the least of all such
    choices. Where there are fewer, all of them are taken, as evenly as can be, and scale by scale: two prototypes of a
    scale in one image would be the same cell.

    Args:
        distance: (M, k) squared distances, inf where there is no candidate.
        image: (M, k) their images, -1 where there is none.
        scale: (M,) of the prototypes.

    Returns:
        (M,) column; 0 where there is no candidate at all.
    """
    images, held = np.unique(image[image >= 0]), np.isfinite(distance)
    count = len(distance)
    if len(images) == 0:
        return np.zeros(count, np.int64)
    once = 1 + distance[held].sum(dtype=np.float64)  # dearer than any choice of distances
    cost = np.full((count, len(images)), once * (count + 1))
    cost[held.nonzero()[0], np.searchsorted(images, image[held])] = distance[held]
    parts = [np.arange(count)] if len(images) >= count else [np.flatnonzero(scale == s) for s in np.unique(scale)]
    used, taken = np.zeros(len(images)), np.zeros(count, np.int64)
    for rows in parts:
        copies = range(-(-len(rows) // len(images)))
        offers = np.concatenate([cost[rows] + once * (used + more) for more in copies], 1)
        taken[rows] = linear_sum_assignment(offers)[1] % len(images)
        np.add.at(used, taken[rows], 1)
    found: NDArray[np.int64] = (image == images[taken][:, None]).argmax(1)
    return found
