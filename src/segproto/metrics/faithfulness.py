"""Deleting and inserting the regions an explanation points at, against random regions of equal area."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.metrics.accumulate import Accumulator

MEASURES = ("logit", "probability", "iou")
MODES = ("delete", "insert")
FILLS = ("mean", "blur")


def top_regions(scores: Tensor, allowed: Tensor, fractions: Sequence[float]) -> Tensor:
    """The best-scored share of the allowed cells: bool (R, S, N).

    Args:
        scores: (R, N).
        allowed: bool (N,) cells of the class.
        fractions: S shares in (0, 1]; at least one cell is taken.
    """
    order = scores.masked_fill(~allowed, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1)
    total = int(allowed.sum())
    counts = torch.tensor([min(max(1, round(f * total)), total) for f in fractions], device=scores.device)
    return rank[:, None] < counts[:, None]


def random_fields(count: int, grid: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Smooth random fields (count, h*w): the random regions cut from them are blobs, as those of prototypes are."""
    noise = torch.randn(count, 1, *grid, generator=generator)
    for _ in range(2):
        noise = F.avg_pool2d(noise, 3, 1, 1, count_include_pad=False)
    return noise.flatten(1)


def blurred(images: Tensor, kernel: int) -> Tensor:
    """Images (B, 3, H, W) after three box filters of ``kernel`` pixels (odd): nearly a Gaussian."""
    for _ in range(3):
        images = F.avg_pool2d(images, kernel, 1, kernel // 2, count_include_pad=False)
    return images


def area_under(values: Tensor, fractions: Sequence[float], start: Tensor, end: Tensor) -> Tensor:
    """Area under curves by the trapezoid rule, over areas from 0 to 1.

    Args:
        values: (..., S) at the fractions.
        fractions: S ascending shares in (0, 1).
        start: value at 0, broadcastable to (...).
        end: value at 1.
    """
    x = torch.tensor([0.0, *fractions, 1.0], dtype=values.dtype, device=values.device)
    ends = [v.expand(values.shape[:-1])[..., None] for v in (start, end)]
    return torch.trapezoid(torch.cat([ends[0], values, ends[1]], -1), x, dim=-1)


class Faithfulness(Accumulator):
    """Mean curves and areas of one (image, class) per row.

    Args:
        tops: how many of the most used prototypes make a region, R of them; random regions come last.
        fractions: S shares of the class's area.
    """

    def __init__(self, tops: Sequence[int], fractions: Sequence[float]) -> None:
        super().__init__()
        self.tops, self.fractions = tuple(tops), tuple(fractions)
        self.rows = {"curves": []}
        self.counts = {"forward_passes": torch.zeros((), dtype=torch.int64)}

    def update(self, curves: Tensor, intact: Tensor, empty: Tensor, image: int, passes: int) -> None:
        """Takes one image and class in.

        Args:
            curves: (3, 2, 2, R + 1, S): measure (logit, probability, IoU), mode, fill, region, area.
            intact: (3,) on the untouched image.
            empty: (3, 2) with the class deleted, per fill.
            image: its index.
            passes: forward passes it took.
        """
        # deleting starts intact, inserting empty
        start = torch.stack([intact[:, None].expand(-1, 2), empty], 1)[..., None]
        end = torch.stack([empty, intact[:, None].expand(-1, 2)], 1)[..., None]
        areas = area_under(curves, self.fractions, start, end)
        row = torch.cat([torch.tensor([float(image)]), curves.flatten(), areas.flatten(), intact]).double()
        self.rows["curves"].append(row[None].cpu())
        self.counts["forward_passes"] += passes

    def compute(self) -> dict[str, Any]:
        """Means over all (image, class).

        Returns:
            ``value``: by how much deleting the regions of the most prototypes asked for lowers the class's probability
            further than random regions do (difference of areas, both fills averaged; > 0 is faithful); ``rows``: each
            measure, mode and fill with its curves and areas, of prototypes and of random regions.
        """
        table, regions = self.table("curves"), len(self.tops) + 1
        base = {"forward_passes": int(self.counts["forward_passes"]), "fractions": list(self.fractions)}
        if not len(table):
            return {"value": None, "reason": "no image shows a class large enough", "rows": [], **base}
        shape = (len(MEASURES), 2, 2, regions, len(self.fractions))
        split = shape[0] * 4 * regions
        middle = table.mean(0)[1:]
        curves = middle[: -split - 3].view(shape)
        areas = middle[-split - 3 : -3].view(shape[:-1])
        rows = [
            {
                "measure": measure,
                "mode": mode,
                "fill": fill,
                "region": f"top {self.tops[r]}" if r < len(self.tops) else "random",
                "curve": curves[m, d, f, r].tolist(),
                "area": float(areas[m, d, f, r]),
                "gain": float(_gain(areas[m, d, f], r, d)) if r < len(self.tops) else None,
            }
            for m, measure in enumerate(MEASURES)
            for d, mode in enumerate(MODES)
            for f, fill in enumerate(FILLS)
            for r in range(regions)
        ]
        gains = [areas[1, 0, f, -1] - areas[1, 0, f, -2] for f in range(2)]
        return {"value": float(sum(gains) / 2), "pairs": len(table), "rows": rows, **base}


def _gain(areas: Tensor, region: int, mode: int) -> Tensor:
    """How much better than random: a smaller area when deleting, a larger one when inserting."""
    difference = areas[-1] - areas[region]
    return difference if mode == 0 else -difference
