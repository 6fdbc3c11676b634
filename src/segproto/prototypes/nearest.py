"""The nearest training cells of each prototype, kept while one pass runs over the set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from segproto.prototypes.labels import IGNORE_INDEX

BLOCK = 256  # columns


def first_minimum(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest value of each row (P, N) and the first column that has it: ``torch.min(rows, 1)``, faster.

    On a CPU the smallest value is found 16 numbers at a time, its place one by one. So the smallest value of each block
    of columns is found first, and a place is looked for among the blocks, then inside one.
    """
    whole = rows.shape[1] // BLOCK * BLOCK
    parts = [rows[:, :whole].unflatten(1, (-1, BLOCK)).amin(2)] if whole else []  # type: ignore[no-untyped-call]
    parts += [rows[:, whole:].amin(1, keepdim=True)] if whole < rows.shape[1] else []
    block = torch.cat(parts, 1).argmin(1)
    columns = block[:, None] * BLOCK + torch.arange(BLOCK, device=rows.device)
    values = rows.gather(1, columns.clamp_max_(rows.shape[1] - 1))  # behind the end: the last one again, after itself
    place = values.argmin(1)[:, None]  # of several the first, which min does not promise
    return values.gather(1, place)[:, 0], columns.gather(1, place)[:, 0]


class RunningNearest:
    """Per prototype the nearest allowed cell so far: what projection replaces it with (published "push").

    Ties go to the smaller image index, then to the first cell in row order, whatever the order of updates.

    Attributes:
        distance: (P,) float32, inf where nothing was found yet.
        image: (P,) int64 image index, -1 where nothing was found.
        cell: (P, 2) int64 row and column.
        grid: (P, 2) int64 rows and columns of that image's grid.
        feature: (P, D) float32, the feature at that cell, of the prototype's scale.
    """

    def __init__(self, class_of: Tensor, scale_of: Tensor, num_scales: int, dim: int) -> None:
        device, count = class_of.device, class_of.numel()
        self.class_of, self.scale_of = class_of, scale_of
        self.num_scales, self.dim = num_scales, dim
        self.distance = torch.full((count,), torch.inf, device=device)
        self.image = torch.full((count,), -1, dtype=torch.int64, device=device)
        self.cell = torch.zeros(count, 2, dtype=torch.int64, device=device)
        self.grid = torch.zeros(count, 2, dtype=torch.int64, device=device)
        self.feature = torch.zeros(count, dim, device=device)

    @torch.no_grad()
    def update(self, distances: Tensor, allowed: Tensor, features: Tensor, image: int) -> None:
        """Takes one image in.

        Args:
            distances: (P, h, w) squared distances.
            allowed: bool (C, h, w), the cells each class may take, see ``segproto.prototypes.membership``.
            features: (S*D, h, w) what the distances were computed from.
            image: index of the image in its set.
        """
        height, width = distances.shape[-2:]
        masked = distances.float().masked_fill(~allowed[self.class_of], torch.inf).flatten(1)
        best, nearest = first_minimum(masked)
        blocks = features.float().reshape(self.num_scales, self.dim, height * width)
        self._take(
            best,
            torch.full_like(self.image, image),
            torch.stack([nearest // width, nearest % width], 1),
            torch.tensor([height, width], device=nearest.device).expand_as(self.grid),
            blocks[self.scale_of, :, nearest],
        )

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Takes in the ``state_dict`` of another process that saw other images of the same set."""
        values = (state[key].to(self.distance.device) for key in ("distance", "image", "cell", "grid", "feature"))
        self._take(*values)

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors, to be saved, sent and merged."""
        return {key: getattr(self, key) for key in ("distance", "image", "cell", "grid", "feature")}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Continues from a saved state."""
        for key in self.state_dict():
            setattr(self, key, state[key].to(self.distance.device))
        return self

    def found(self) -> Self:
        """What was found: itself."""
        return self

    def missing_classes(self) -> list[int]:
        """Classes of the prototypes for which no allowed cell was seen."""
        return sorted(set(self.class_of[torch.isinf(self.distance)].tolist()))

    def _take(self, distance: Tensor, image: Tensor, cell: Tensor, grid: Tensor, feature: Tensor) -> None:
        earlier = (distance == self.distance) & (image < self.image)
        better = torch.isfinite(distance) & ((distance < self.distance) | earlier)
        self.distance = torch.where(better, distance, self.distance)
        self.image = torch.where(better, image, self.image)
        self.cell = torch.where(better[:, None], cell, self.cell)
        self.grid = torch.where(better[:, None], grid, self.grid)
        self.feature = torch.where(better[:, None], feature, self.feature)


class RunningTopK:
    """Per prototype the k nearest images (one cell an image) and the label of that patch: what pruning looks at.

    Ties go to the smaller image index.

    Attributes:
        distance: (P, k) float32, ascending, inf where empty.
        image: (P, k) int64, -1 where empty.
        cell: (P, k, 2) int64.
        label: (P, k) int64 patch label, 255 where empty or all void.
    """

    def __init__(self, class_of: Tensor, k: int = 6) -> None:
        device, shape = class_of.device, (class_of.numel(), k)
        self.class_of, self.k = class_of, k
        self.distance = torch.full(shape, torch.inf, device=device)
        self.image = torch.full(shape, -1, dtype=torch.int64, device=device)
        self.cell = torch.zeros(*shape, 2, dtype=torch.int64, device=device)
        self.label = torch.full(shape, IGNORE_INDEX, dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, distances: Tensor, grid_labels: Tensor, labels: Tensor, image: int) -> None:
        """Takes one image in; an image without a labelled cell is left out.

        Args:
            distances: (P, h, w) squared distances.
            grid_labels: (h, w) labels on the grid; void cells (255) are not taken.
            labels: (H, W) labels of the area the grid covers, 255 = void.
            image: index of the image in its set.
        """
        width = distances.shape[-1]
        rows, void = distances.float().flatten(1), (grid_labels == IGNORE_INDEX).flatten()
        best, nearest = first_minimum(rows)
        wrong = void[nearest].nonzero()[:, 0]  # only there void cells must be masked, which is a copy of the map
        if len(wrong):
            best[wrong], nearest[wrong] = first_minimum(rows[wrong].masked_fill_(void, torch.inf))
        best = best[:, None]
        cell = torch.stack([nearest // width, nearest % width], 1)
        label = patch_labels(labels, cell, (distances.shape[-2], width), self.class_of)
        self._take(best, torch.full_like(best, image, dtype=torch.int64), cell[:, None], label[:, None])

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Takes in the ``state_dict`` of another process that saw other images of the same set."""
        values = (state[key].to(self.distance.device) for key in ("distance", "image", "cell", "label"))
        self._take(*values)

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors, to be saved, sent and merged."""
        return {key: getattr(self, key) for key in ("distance", "image", "cell", "label")}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Continues from a saved state."""
        for key in self.state_dict():
            setattr(self, key, state[key].to(self.distance.device))
        return self

    def keep_mask(self, threshold: int = 3) -> Tensor:
        """(P,) bool: ``threshold`` or more of the k nearest patches carry the prototype's class (Sacha et al. 2023)."""
        filled = torch.isfinite(self.distance)
        return ((self.label == self.class_of[:, None]) & filled).sum(1) >= threshold

    def _take(self, distance: Tensor, image: Tensor, cell: Tensor, label: Tensor) -> None:
        distances = torch.cat([self.distance, distance], 1)
        images = torch.cat([self.image, torch.where(torch.isfinite(distance), image, -1)], 1)
        order = nearest_first(distances, images)[:, : self.k]
        self.distance = distances.gather(1, order)
        self.image = images.gather(1, order)
        self.cell = torch.cat([self.cell, cell], 1).gather(1, order[..., None].expand(-1, -1, 2))
        self.label = torch.cat([self.label, label], 1).gather(1, order)


class RunningStrongest:
    """Per part the k images in which it is strongest, one cell an image, whatever its label.

    Ties go to the smaller image index, then to the first cell in row order.

    Attributes:
        strength: (P, k) float32, descending, 0 where empty: a part that fires nowhere has no patch.
        image: (P, k) int64 image index, -1 where empty.
        cell: (P, k, 2) int64 row and column.
        grid: (P, k, 2) int64 rows and columns of that image's grid.
    """

    def __init__(self, parts: int, k: int, device: torch.device) -> None:
        self.k = k
        self.strength = torch.zeros(parts, k, device=device)
        self.image = torch.full((parts, k), -1, dtype=torch.int64, device=device)
        self.cell = torch.zeros(parts, k, 2, dtype=torch.int64, device=device)
        self.grid = torch.zeros(parts, k, 2, dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, strengths: Tensor, grid: tuple[int, int], image: int) -> None:
        """Takes one image in.

        Args:
            strengths: (P, h, w) >= 0, of the cells that count: the first rows and columns of the grid.
            grid: all its rows and columns.
            image: index of the image in its set.
        """
        width = strengths.shape[-1]
        best, at = (-strengths.float()).flatten(1).min(1, keepdim=True)
        cell = torch.stack([at // width, at % width], 2)
        shape = torch.tensor(grid, device=cell.device).expand_as(cell)
        self._take(-best, torch.full_like(at, image), cell, shape)

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Takes in the ``state_dict`` of another process that saw other images of the same set."""
        self._take(*(state[key].to(self.strength.device) for key in ("strength", "image", "cell", "grid")))

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors, to be sent and merged."""
        return {key: getattr(self, key) for key in ("strength", "image", "cell", "grid")}

    def _take(self, strength: Tensor, image: Tensor, cell: Tensor, grid: Tensor) -> None:
        strengths = torch.cat([self.strength, strength], 1)
        images = torch.cat([self.image, torch.where(strength > 0, image, -1)], 1)
        order = nearest_first(-strengths, images)[:, : self.k]
        self.strength, self.image = strengths.gather(1, order), images.gather(1, order)
        pairs = order[..., None].expand(-1, -1, 2)
        self.cell, self.grid = (
            torch.cat([old, new], 1).gather(1, pairs) for old, new in ((self.cell, cell), (self.grid, grid))
        )


def nearest_first(distances: Tensor, images: Tensor) -> Tensor:
    """The order (P, n) of distances (P, n), each row's least first; ties go to the smaller image index."""
    by_image = images.argsort(dim=1, stable=True)  # lexicographic order: stable sort by the second key first
    return by_image.gather(1, distances.gather(1, by_image).argsort(dim=1, stable=True))


def patch_labels(labels: Tensor, cells: Tensor, grid: tuple[int, int], class_of: Tensor) -> Tensor:
    """The label of one patch per prototype (published pruning).

    A patch is rows ``i*H//h .. (i+1)*H//h`` and the like columns. Its label is the prototype's class if any pixel has
    it, else the most frequent class (the smallest on ties), 255 if all is void.

    Args:
        labels: (H, W) int64, 255 = void.
        cells: (P, 2) row and column of each patch.
        grid: (h, w).
        class_of: (P,) class of each prototype.

    Returns:
        (P,) int64.
    """
    rows, row_ok = _pixels_of_cells(cells[:, 0], labels.shape[0], grid[0])
    columns, column_ok = _pixels_of_cells(cells[:, 1], labels.shape[1], grid[1])
    inside = row_ok[:, :, None] & column_ok[:, None]
    patch = labels[rows[:, :, None], columns[:, None]].masked_fill(~inside, IGNORE_INDEX).flatten(1)
    size = max(IGNORE_INDEX, int(labels.max())) + 1  # more than 255 classes have numbers beyond void
    counts = torch.zeros(len(cells), size, dtype=torch.int64, device=labels.device)
    counts.scatter_add_(1, patch, torch.ones_like(patch))
    counts[:, IGNORE_INDEX] = 0
    common = torch.where(counts.sum(1) > 0, counts.argmax(1), IGNORE_INDEX)
    own = counts.gather(1, class_of[:, None].clamp_max(size - 1))[:, 0].masked_fill(class_of >= size, 0) > 0
    return torch.where(own, class_of, common)


def unique_rows(vectors: Tensor) -> Tensor:
    """(P,) bool: True for the first of each set of exactly equal rows."""
    _, inverse = torch.unique(vectors.detach(), dim=0, return_inverse=True)
    index = torch.arange(len(vectors), device=vectors.device)
    first = torch.full_like(index, len(vectors)).scatter_reduce(0, inverse, index, "amin")
    return first[inverse] == index


def _pixels_of_cells(cells: Tensor, pixels: int, count: int) -> tuple[Tensor, Tensor]:
    """Pixel indices ``i*pixels//count .. (i+1)*pixels//count`` of cells (P,), padded: (P, m) and a bool mask."""
    start, end = cells * pixels // count, (cells + 1) * pixels // count
    index = start[:, None] + torch.arange(-(-pixels // count), device=cells.device)
    return index.clamp_max(pixels - 1), index < end[:, None]
