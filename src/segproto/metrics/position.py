"""Whether prototypes stand for a place in the image: how far their best matches are spread over it."""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
from torch import Tensor

from segproto.metrics.accumulate import Accumulator, mean, scored, share
from segproto.metrics.cells import Size

FEWEST = 10  # images that show the class; of fewer, a spread says little
NARROW = 0.25  # of the variance of the class's own cells: half their spread
UNIFORM = 1 / 6  # variance of a place anywhere in the image, down and across together


def places(grid: Size, extent: tuple[float, float]) -> Tensor:
    """Centres of cells, down and across, as shares of the image's height and width: float64 (h*w, 2).

    Args:
        grid: (h, w).
        extent: what the grid covers, over the image's own height and width (at least 1, with padding).
    """
    down, across = (
        (torch.arange(cells, dtype=torch.float64) + 0.5) / cells * side
        for cells, side in zip(grid, extent, strict=True)
    )
    return torch.stack([down.repeat_interleave(grid[1]), across.repeat(grid[0])], 1)


class Position(Accumulator):
    """Spread of each prototype's strongest cell over images, against that of the cells of its class.

    Args:
        class_of: int64 (P,).
        num_classes: C.
        keep: bool (P,) prototypes that count; None = all.
    """

    def __init__(self, class_of: Tensor, num_classes: int, keep: Tensor | None = None) -> None:
        super().__init__()
        self.class_of, self.num_classes = class_of.cpu(), num_classes
        self.keep = torch.ones(len(class_of), dtype=torch.bool) if keep is None else keep.cpu()
        self.rows = {"best": [], "drawn": [], "classes": []}

    def update(
        self, activations: Tensor, labels: Tensor, where: Tensor, inside: Tensor, drawn: Tensor, index: int
    ) -> None:
        """Takes one image in.

        Args:
            activations: (P, N).
            labels: (N,) labels of the cells, 255 = void.
            where: (N, 2) of :func:`places`.
            inside: bool (N,): the cell covers a part of the image.
            drawn: (P, N) random numbers; the largest among the cells of a prototype's class is a cell by chance.
            index: of the image.
        """
        labels, own = labels.cpu(), torch.zeros(self.num_classes, len(labels), dtype=torch.bool)
        known = (labels < self.num_classes) & inside.cpu()
        own[labels[known].long(), known.nonzero()[:, 0]] = True
        shown = own.any(1)[self.class_of]
        for name, scores, allowed in (("best", activations, inside.cpu()[None]), ("drawn", drawn, own[self.class_of])):
            best = where[scores.cpu().masked_fill(~allowed, -torch.inf).argmax(1)]
            self._add(name, index, torch.where(shown[:, None], best, torch.nan))
        count = own.sum(1, dtype=torch.float64)[:, None]  # nan for a class that is not there
        means = own.double() @ where / count
        variances = own.double() @ where.square() / count - means.square()
        self._add("classes", index, torch.cat([means, variances], 1))

    def _add(self, name: str, index: int, values: Tensor) -> None:
        self.rows[name].append(torch.cat([torch.tensor([index], dtype=torch.float64), values.flatten()])[None])

    def _ratios(self, name: str) -> Tensor:
        """float64 (P, 2): variance of a prototype's places over that of its class's cells; nan where unknown."""
        found = self.table(name)[:, 1:].reshape(-1, len(self.class_of), 2)
        own = self.table("classes")[:, 1:].reshape(-1, self.num_classes, 4)[:, self.class_of]
        seen = ~found[..., 0].isnan()
        reference = own[..., 2:].nanmean(0) + variance(own[..., :2])
        ratios = variance(found) / reference.masked_fill(reference <= 0, torch.nan)
        return ratios.masked_fill(((seen.sum(0) < FEWEST) | ~self.keep)[:, None], torch.nan)

    def compute(self) -> dict[str, Any]:
        """Share of prototypes whose best matches keep to one height or one column of the image.

        ``chance``: the same for a random cell of the class instead of the strongest one. ``down`` and ``across``: the
        median variance in this direction over that of the class's cells; ``per_prototype``: the smaller of the two.
        ``of_image``: the mean variance over that of places anywhere in the image.
        """
        reason = f"no prototype is in use whose class {FEWEST} images show"
        if not self.rows["best"]:
            return scored(None, reason)
        ratios = {name: self._ratios(name) for name in ("best", "drawn")}
        known = ~ratios["best"].isnan().any(1)
        narrow = {name: ((r < NARROW).any(1) & known).tolist() for name, r in ratios.items()}
        counted = int(known.sum())
        found = self.table("best")[:, 1:].reshape(-1, len(self.class_of), 2)
        of_image = (variance(found).sum(1) / UNIFORM)[known].tolist()
        smaller = [r if k else None for r, k in zip(ratios["best"].amin(1).tolist(), known.tolist(), strict=True)]
        down, across = ratios["best"][known].T.tolist()
        members = torch.bincount(self.class_of[known], minlength=self.num_classes).tolist()
        hits = torch.bincount(self.class_of[torch.tensor(narrow["best"])], minlength=self.num_classes).tolist()
        return scored(
            share(sum(narrow["best"]), counted),
            reason,
            chance=share(sum(narrow["drawn"]), counted),
            down=median(down) if down else None,
            across=median(across) if across else None,
            of_image=mean(of_image),
            prototypes=counted,
            per_class=[share(a, b) for a, b in zip(hits, members, strict=True)],
            per_prototype=smaller,
        )


def variance(values: Tensor) -> Tensor:
    """Sample variance over the first dimension, of what is not nan; nan of fewer than two."""
    count = (~values.isnan()).sum(0)
    squares = (values - values.nanmean(0)).square().nansum(0)
    return torch.where(count > 1, squares / (count - 1), torch.nan)
