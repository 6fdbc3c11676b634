"""Scores of an edited head within a second: what the prototypes saw is kept, and of the pixels few are worked out.

A pixel's logits are a mix of those of four cells, so that between cells which all say one class, by more than the error
of a float, nothing needs to be enlarged: the labels there are counted once and for all. Elsewhere a class that another
one exceeds in every cell cannot win and is left out. Both are exact: the counts are those of :mod:`.rescore`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from segproto.data.base import ClassTable
from segproto.evaluation.tally import report
from segproto.model.field import Field
from segproto.model.heads import Head
from segproto.model.segmenter import Segmenter
from segproto.prototypes.labels import IGNORE_INDEX

PARTS = 6  # an image is worked out in so many strips of rows at most, each with the classes that may win there
ERROR = 1e-5  # of the largest logit: by less, enlarging may change an order


@dataclass(frozen=True)
class Kept:
    """What is kept of one image.

    Attributes:
        name: of the image.
        cells: (1, P, h, w) activations, or (1, F, h, w) features of a head that needs them.
        labels: int16 (H, W), void = C.
        rows: int64 (h, C + 1): labels by the cell row that lies above them.
        step: image pixels per cell, and whether corners are aligned, as :class:`segproto.model.field.Field` has it.
    """

    name: str
    cells: Tensor
    labels: Tensor
    rows: Tensor
    step: tuple[float, float]
    aligned: bool

    def field(self, grid: Tensor) -> Field:
        """Grid logits (C, h, w) over the image."""
        return Field(grid, (self.labels.shape[0], self.labels.shape[1]), self.step, aligned=self.aligned)


class WhatIf:
    """Images that edited heads of one model are scored on.

    Args:
        model: the model before all edits; nothing of it is changed.
        classes: of the labels.
        workers: threads that count.
    """

    def __init__(self, model: Segmenter, classes: ClassTable, workers: int = 2) -> None:
        self.model, self.classes, self.workers = model, classes, workers
        self.images: list[Kept] = []

    @torch.no_grad()
    def cells_of(self, features: Tensor) -> Tensor:
        """Features (1, F, h, w) to what is kept of them: activations where these are enough to answer by."""
        head = self.model.head
        if not self.answers:
            return features
        return head.activations(head.cell_features(features))

    @cached_property
    def answers(self) -> bool:
        """Whether the head answers by activations alone."""
        bank = self.model.head.bank
        if bank is None:
            return False
        with torch.no_grad():
            none = torch.zeros(1, bank.num_prototypes, 1, 1, device=bank.class_of.device)
            return self.model.head.from_activations(none) is not None

    def add(self, name: str, features: Tensor, mask: Tensor) -> None:
        """Takes one image in; arguments as :meth:`keep`."""
        self.images.append(self.keep(name, features, mask))

    def keep(self, name: str, features: Tensor, mask: Tensor, field: Field | None = None) -> Kept:
        """What is kept of one image.

        Args:
            name: of the image.
            features: (1, F, h, w) as the head receives them.
            mask: (H, W), 255 = void.
            field: how the cells lie over the image; None = as the encoder lays them over one of its size.
        """
        cells, classes = self.cells_of(features), self.classes.num_classes
        size = (mask.shape[-2], mask.shape[-1])
        field = field or Field.over(cells[0, :1], self.model.encoder, size, size)
        labels = mask.to(device=cells.device, dtype=torch.int16)
        labels = labels.masked_fill(mask.to(cells.device) == IGNORE_INDEX, classes)
        above = field.cell_rows().to(cells.device)
        index = above[:, None] * (classes + 1) + labels.long()
        rows = torch.bincount(index.flatten(), minlength=cells.shape[-2] * (classes + 1)).view(-1, classes + 1)
        return Kept(name, cells, labels, rows, field.step, field.aligned)

    @torch.no_grad()
    def grids(self, head: Head, kept: Sequence[int] | None = None) -> list[Tensor]:
        """Grid logits (C, h, w) of every image.

        Args:
            head: the model's, or one edited from it.
            kept: old number of each of its prototypes (:func:`segproto.model.edit.edited`); None = all, in order.
        """
        return [self.answer(head, image.cells, kept)[0].float() for image in self.images]  # one by one, as elsewhere

    def answer(self, head: Head, cells: Tensor, kept: Sequence[int] | None) -> Tensor:
        """What is kept of images, (B, P or F, h, w), to logits (B, C, h, w)."""
        if self.answers:
            logits = head.from_activations(cells if kept is None else cells[:, list(kept)])
            assert logits is not None  # an edited head is of the same kind
            return logits
        answer: Tensor = head(cells)
        return answer

    def count(self, head: Head, kept: Sequence[int] | None = None) -> Tensor:
        """int64 (N, C, C): pixels by true and answered class of every image; arguments as :meth:`grids`."""
        grids = self.grids(head, kept)
        with ThreadPoolExecutor(self.workers) as pool:
            counts = list(pool.map(image_counts, self.images, grids))
        classes = self.classes.num_classes
        return torch.stack(counts).cpu() if counts else torch.zeros(0, classes, classes, dtype=torch.int64)

    def scores(self, counts: Tensor) -> dict[str, Any]:
        """The figures of :meth:`count`, as of :func:`segproto.evaluation.tally.report`."""
        return report(counts.sum(0), self.classes)


@torch.no_grad()
def image_counts(image: Kept, grid: Tensor) -> Tensor:
    """int64 (C, C): pixels by true and answered class, of grid logits (C, h, w)."""
    classes = len(grid)
    counts = torch.zeros(classes + 1, classes, dtype=torch.int64, device=grid.device)
    field = image.field(grid)
    above = field.cell_rows()
    lower = torch.arange(grid.shape[1])
    pairs = torch.stack([lower, (lower + 1).clamp(max=grid.shape[1] - 1)])
    may_win = contenders(grid[:, pairs].permute(2, 0, 1, 3).flatten(2))  # (h, C): between a row of cells and the next
    alone = may_win.sum(1) == 1
    counts.index_add_(1, may_win[alone].int().argmax(1), image.rows[alone].T)
    for first, last in strips(alone.tolist()):
        start, stop = (int(torch.searchsorted(above, value)) for value in (first, last + 1))
        if start == stop:
            continue
        alive = may_win[first : last + 1].any(0).nonzero()[:, 0]
        part = Field(grid[alive], field.size, field.step, aligned=field.aligned).rows(start, stop)
        index = image.labels[start:stop].long() * len(alive) + part.max(0)[1]
        pixels = torch.bincount(index.flatten(), minlength=(classes + 1) * len(alive))
        counts.index_add_(1, alive, pixels.view(classes + 1, len(alive)))
    return counts[:classes]


def contenders(cells: Tensor) -> Tensor:
    """bool (N, C): the classes that may have the largest mix of some cells' logits.

    Args:
        cells: (N, C, K) logits; a mix is a mean of the K cells of a row, with any weights.
    """
    beaten = torch.zeros(cells.shape[:2], dtype=torch.bool, device=cells.device)
    margin = ERROR * cells.abs().amax((1, 2))[:, None]
    for c in range(cells.shape[1]):  # exceeded by class c in every cell
        beaten |= (cells[:, c : c + 1] - cells).amin(2) > margin
    return ~beaten


def strips(skip: Sequence[bool]) -> list[tuple[int, int]]:
    """Runs of cell rows (first, last) without those to skip, cut so that an image has about ``PARTS``."""
    longest = -(-len(skip) // PARTS)
    runs: list[tuple[int, int]] = []
    for row, passed in enumerate(skip):
        if passed:
            continue
        if runs and runs[-1][1] == row - 1 and row - runs[-1][0] < longest:
            runs[-1] = (runs[-1][0], row)
        else:
            runs.append((row, row))
    return runs
