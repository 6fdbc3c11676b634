"""Whether a prototype looks at one part of its class, and keeps looking at it (Porta et al. 2025, section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from segproto.metrics.accumulate import Accumulator, mean, scored, share
from segproto.metrics.cells import CellRule, Size, class_pixels, pixel_cells, segment_quantiles
from segproto.metrics.keypoints import Keypoints

Within = Literal["mask", "image"]
QUANTILES = (0.8, 0.85, 0.9, 0.95)


class Presence(NamedTuple):
    """On which parts each prototype is active in one image.

    Attributes:
        active: bool (Q, P, K): at quantile q, prototype p is active on a key point of part k of its class.
        seen: bool (P, K): the image shows part k of the prototype's class.
    """

    active: Tensor
    seen: Tensor


def part_presence(
    activations: Tensor,
    mask: Tensor,
    points: Keypoints,
    class_of: Tensor,
    num_parts: int,
    *,
    area: Size,
    num_classes: int,
    quantiles: Sequence[float] = QUANTILES,
    within: Within = "mask",
    cells: CellRule = "centre",
) -> Presence:
    """Prototypes whose activation at a key point of their class exceeds their quantile, from the grid alone.

    Equal to resizing every map to the image with a NEAREST filter and binarising it there: a quantile of the resized
    map is a quantile of the cells, each counted as often as it has pixels. Which filter is said by ``cells``: Pillow's,
    or that of OpenCV, which the published code uses.

    Args:
        activations: (P, h, w).
        mask: (H, W) classes, 255 = void.
        points: key points, pixels of the same image.
        class_of: int64 (P,).
        num_parts: K, part ids are 0..K-1.
        area: pixels the grid covers.
        num_classes: C.
        quantiles: Q of them in [0, 1).
        within: ``mask``: quantile over the pixels of the class; ``image``: over all pixels, those outside the class
            as zeros (then an object smaller than 1 - q of the image is active everywhere).
        cells: which cell is a pixel's, see :func:`segproto.metrics.cells.pixel_cells`; ``floor`` = published.

    Raises:
        ValueError: a key point of a part outside 0..K-1.
    """
    if len(points.part) and int(points.part.max()) >= num_parts:
        raise ValueError(f"part {int(points.part.max())}: expected 0..{num_parts - 1}")
    size, grid = (mask.shape[-2], mask.shape[-1]), (activations.shape[-2], activations.shape[-1])
    cell_of = pixel_cells(size, grid, area, cells)
    flat = activations.flatten(1).cpu()
    class_of = class_of.cpu()
    active = torch.zeros(len(quantiles), len(flat), num_parts, dtype=torch.bool)
    seen = torch.zeros(len(flat), num_parts, dtype=torch.bool)
    shown = torch.zeros(num_classes, dtype=torch.bool)
    shown[points.class_id] = True
    chosen = shown[class_of].nonzero()[:, 0]
    if not len(chosen):
        return Presence(active, seen)
    weights = class_pixels(mask.cpu(), cell_of, num_classes, flat.shape[1])
    limits = class_quantiles(flat[chosen], weights[class_of[chosen]], size, quantiles, within)
    row, point = (class_of[chosen][:, None] == points.class_id).nonzero(as_tuple=True)
    y, x = points.y[point], points.x[point]
    inside = mask.cpu()[y, x].to(torch.int64) == points.class_id[point]
    on = (flat[chosen[row], cell_of[y, x]] > limits[:, row]) & inside
    q, hit = on.nonzero(as_tuple=True)
    active[q, chosen[row[hit]], points.part[point[hit]]] = True
    seen[chosen[row], points.part[point]] = True
    return Presence(active, seen)


def class_quantiles(
    values: Tensor, weights: Tensor, size: Size, quantiles: Sequence[float], within: Within = "mask"
) -> Tensor:
    """The limits (Q, P) that a prototype's value must exceed.

    Args:
        values: (P, N) activations of the cells.
        weights: int64 (P, N) pixels of the prototype's class in each cell.
        size: (H, W) of the image.
        quantiles: Q of them.
        within: see :func:`part_presence`.
    """
    row, cell = weights.nonzero(as_tuple=True)
    sample, counts, segment = values[row, cell], weights[row, cell], row
    if within == "image":
        rest = size[0] * size[1] - weights.sum(1)
        some = rest.nonzero()[:, 0]
        sample = torch.cat([sample, sample.new_zeros(len(some))])
        counts, segment = torch.cat([counts, rest[some]]), torch.cat([segment, some])
    return segment_quantiles(sample, counts, segment, len(values), quantiles)


class Consistency(Accumulator):
    """Share of prototypes that are active on one part of their class in more than ``limit`` of its images.

    Args:
        class_of: int64 (P,).
        num_parts: K.
        quantiles: Q of them.
        limit: mu, strict.
    """

    def __init__(
        self, class_of: Tensor, num_parts: int, quantiles: Sequence[float] = QUANTILES, limit: float = 0.8
    ) -> None:
        super().__init__()
        self.class_of, self.quantiles, self.limit = class_of.cpu(), tuple(quantiles), limit
        shape = (len(class_of), num_parts)
        self.counts = {
            "active": torch.zeros(len(quantiles), *shape, dtype=torch.int64),
            "seen": torch.zeros(shape, dtype=torch.int64),
        }

    def update(self, presence: Presence) -> None:
        """Takes one image in."""
        self.counts["active"] += presence.active
        self.counts["seen"] += presence.seen

    def compute(self, keep: Tensor | None = None) -> dict[str, Any]:
        """The score at each quantile and its mean, over the prototypes that occurred.

        Args:
            keep: bool (P,) prototypes that count (those in use; those of some classes); None = all.
        """
        seen, kept = self.counts["seen"], _kept(keep, self.class_of)
        occurred = (seen > 0).any(1) & kept
        rate = self.counts["active"] / seen.clamp_min(1)
        consistent = (rate.amax(2) > self.limit) & occurred
        return _summary(consistent.long(), occurred.long(), self.class_of, self.quantiles)


class Stability(Accumulator):
    """Share of (image, class, prototype) whose active parts stay the same when noise is added to the image.

    Args:
        class_of: int64 (P,).
        quantiles: Q of them.
    """

    def __init__(self, class_of: Tensor, quantiles: Sequence[float] = QUANTILES) -> None:
        super().__init__()
        self.class_of, self.quantiles = class_of.cpu(), tuple(quantiles)
        self.counts = {
            "stable": torch.zeros(len(quantiles), len(class_of), dtype=torch.int64),
            "rows": torch.zeros(len(class_of), dtype=torch.int64),
        }

    def update(self, clean: Presence, noisy: Presence) -> None:
        """Takes one image in, seen twice."""
        rows = clean.seen.any(1)
        self.counts["stable"] += (clean.active == noisy.active).all(2) & rows
        self.counts["rows"] += rows

    def compute(self, keep: Tensor | None = None) -> dict[str, Any]:
        """As :meth:`Consistency.compute`."""
        kept = _kept(keep, self.class_of)
        return _summary(self.counts["stable"] * kept, self.counts["rows"] * kept, self.class_of, self.quantiles)


def _kept(keep: Tensor | None, class_of: Tensor) -> Tensor:
    return torch.ones_like(class_of, dtype=torch.bool) if keep is None else keep.cpu()


def _summary(good: Tensor, total: Tensor, class_of: Tensor, quantiles: Sequence[float]) -> dict[str, Any]:
    """Shares of (Q, P) good ones in (P,) totals: at each quantile, their mean, and the mean within each class."""
    scores = [share(int(row.sum()), int(total.sum())) for row in good]
    classes = int(class_of.max()) + 1 if len(class_of) else 0
    sums = torch.zeros(len(good), classes, dtype=torch.int64).index_add(1, class_of, good)
    totals = torch.zeros(classes, dtype=torch.int64).index_add(0, class_of, total)
    rows = totals.tolist()
    per_class = [mean([share(n, rows[c]) for n in sums[:, c].tolist()]) for c in range(classes)]
    return scored(
        mean(scores),
        "no image shows a part of a class that has prototypes",
        per_quantile=[{"quantile": q, "value": v} for q, v in zip(quantiles, scores, strict=True)],
        per_class=per_class,
        counted=int(total.sum()),
    )
