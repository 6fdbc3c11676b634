"""In how many pieces the activations of each scale fall, and how large these are (Porta et al. 2025, figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from segproto.metrics.accumulate import Accumulator, scored, share
from segproto.metrics.cells import row_quantiles

IN_PLANE = np.zeros((3, 3, 3), dtype=bool)
IN_PLANE[1] = True


def count_components(active: Tensor) -> Tensor:
    """Number of 8-connected components of each map: bool (P, h, w) to int64 (P,)."""
    pieces, _ = ndimage.label(active.cpu().numpy(), structure=IN_PLANE)
    last = np.maximum.accumulate(pieces.reshape(len(pieces), -1).max(1))  # labels are given map by map
    return torch.from_numpy(np.diff(last, prepend=0).astype(np.int64))


class Components(Accumulator):
    """Mean number of components of a prototype's map and their mean area, per scale.

    Args:
        scale_of: int64 (P,).
        num_scales: S.
        quantiles: a map is active where it exceeds its quantile over the whole image.
    """

    def __init__(self, scale_of: Tensor, num_scales: int, quantiles: Sequence[float] = (0.8, 0.9, 0.95)) -> None:
        super().__init__()
        self.scale_of, self.num_scales, self.quantiles = scale_of.cpu(), num_scales, tuple(quantiles)
        shape = (len(quantiles), num_scales)
        self.counts = {name: torch.zeros(shape, dtype=torch.int64) for name in ("components", "pixels")}
        self.counts |= {"maps": torch.zeros(num_scales, dtype=torch.int64)}
        self.counts |= {
            "image_pixels": torch.zeros((), dtype=torch.int64),
            "images": torch.zeros((), dtype=torch.int64),
        }

    def update(self, maps: Tensor, weights: Tensor) -> None:
        """Takes one image in.

        Args:
            maps: (P, Y, X) activations, on the grid or at the pixels.
            weights: int64 (Y*X,) pixels of each place.
        """
        flat, weights = maps.flatten(1).cpu(), weights.cpu()
        for q, limit in enumerate(row_quantiles(flat, weights, self.quantiles)):
            active = (flat > limit[:, None]) & (weights > 0)
            pieces = count_components(active.view(maps.shape))
            self.counts["components"][q].index_add_(0, self.scale_of, pieces)
            self.counts["pixels"][q].index_add_(0, self.scale_of, (active * weights).sum(1))
        self.counts["maps"] += torch.bincount(self.scale_of, minlength=self.num_scales)
        self.counts["image_pixels"] += weights.sum()
        self.counts["images"] += 1

    def compute(self) -> dict[str, Any]:
        """Per quantile and scale: ``count`` (components a map), ``area`` (mean, as a share of the image)."""
        pixels = share(int(self.counts["image_pixels"]), int(self.counts["images"]))
        rows = []
        for q, quantile in enumerate(self.quantiles):
            components, area = self.counts["components"][q].tolist(), self.counts["pixels"][q].tolist()
            maps = self.counts["maps"].tolist()
            count = [share(a, b) for a, b in zip(components, maps, strict=True)]
            size = [share(a, b * pixels) if pixels else None for a, b in zip(area, components, strict=True)]
            rows.append({"quantile": quantile, "count": count, "area": size})
        first = rows[-1]["count"][0]  # type: ignore[index]
        return scored(first, "no image", per_quantile=rows)
