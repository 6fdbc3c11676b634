"""The diversity loss: prototypes of one class (and scale) should be active at different places."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segproto.prototypes.labels import IGNORE_INDEX
from segproto.prototypes.numerics import exact_float32
from segproto.prototypes.segments import occurrences

SHARED = 512  # cells that a GPU adds to one number


class DiversityLoss(nn.Module):
    """Mean of ``exp(-J)`` over pairs of prototypes of one class and scale (Sacha et al. 2023).

    For each image and class present, ``p_i = softmax(sign * d_i)`` over the cells of the class, and J is half the
    symmetric Kullback-Leibler divergence of two prototypes, summed over these cells. Classes with fewer than two cells
    or two prototypes (in the scale) are left out.

    Args:
        class_of: (P,) class of each prototype.
        scale_of: (P,) scale of each prototype; all zeros compares all prototypes of a class (protoseg).
        sign: +1 as in the published code, -1 so that p_i is large where prototype i is near.
        unshifted_labels: the off-by-one of the published ProtoSeg code: prototypes of class k see the cells of class
            k - 1, those of class 0 the void cells.
        ignore_index: the void label.
    """

    slots: Tensor
    difference: Tensor
    pair_mask: Tensor

    def __init__(
        self,
        class_of: Tensor,
        scale_of: Tensor,
        *,
        sign: int = 1,
        unshifted_labels: bool = False,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__()
        if sign not in (1, -1):
            raise ValueError(f"sign is {sign}, expected 1 or -1")
        self.sign = sign
        self.unshifted_labels = unshifted_labels
        self.ignore_index = ignore_index
        self.num_classes = int(class_of.max()) + 1 if class_of.numel() else 0
        slots, filled = _slot_table(class_of, scale_of)
        pairs = torch.combinations(torch.arange(slots.shape[-1], device=slots.device)).T
        self.register_buffer("slots", slots, persistent=False)
        slot = torch.arange(slots.shape[-1], device=slots.device)[:, None]
        difference = (slot == pairs[0]).float() - (slot == pairs[1]).float()  # (M, pairs): x_i - x_j is a product
        self.register_buffer("difference", difference, persistent=False)
        self.register_buffer("pair_mask", filled[..., pairs[0]] & filled[..., pairs[1]], persistent=False)

    def forward(self, distances: Tensor, labels: Tensor) -> Tensor:
        """Scalar in [0, 1]; 0 if no pair of prototypes has two cells to be compared on.

        Args:
            distances: (B, P, h, w) squared distances.
            labels: (B, h, w) int64 labels on the grid; void and classes without prototypes are left out.
        """
        if self.difference.shape[1] == 0:
            return distances.sum() * 0
        batch, classes = distances.shape[0], self.num_classes
        class_of_cell = self._seen_by(labels.flatten(1))  # (B, N), ``classes`` where left out
        first_segment = torch.arange(batch, device=distances.device)[:, None] * (classes + 1)
        cells = _Cells((first_segment + class_of_cell).flatten(), batch * (classes + 1), class_of_cell.shape[1])
        log_p = cells.log_softmax(self._own(distances, class_of_cell) * self.sign)
        with exact_float32(log_p.device):
            difference = self.difference.to(log_p.dtype)
            terms = (log_p.exp() @ difference) * (log_p @ difference) / 2  # (B*N, S, pairs)
        divergence = cells.sum(terms).view(batch, classes + 1, *terms.shape[1:])[:, :classes]
        valid = (cells.count().view(batch, -1, 1, 1)[:, :classes] >= 2) & self.pair_mask
        similarity = torch.exp(-divergence)
        return torch.where(valid, similarity, 0).sum() / valid.sum().clamp_min(1)

    def _seen_by(self, labels: Tensor) -> Tensor:
        """The class whose prototypes are compared on each cell; ``num_classes`` for none."""
        void = labels == self.ignore_index
        class_of_cell = (
            torch.where(void, 0, labels + 1) if self.unshifted_labels else labels.masked_fill(void, self.num_classes)
        )
        return class_of_cell.clamp_max(self.num_classes)

    def _own(self, distances: Tensor, class_of_cell: Tensor) -> Tensor:
        """(B*N, S, m): the distance of each cell to the prototypes of its class."""
        scales, slots = self.slots.shape[1:]
        table = torch.cat([self.slots, self.slots[:1]]).flatten(1)  # left-out cells read class 0, and are not used
        index = table[class_of_cell].transpose(1, 2)  # (B, S*m, N)
        return distances.flatten(2).gather(1, index).transpose(1, 2).reshape(-1, scales, slots)


def _slot_table(class_of: Tensor, scale_of: Tensor) -> tuple[Tensor, Tensor]:
    """(C, S, m) prototype ids, 0 where padded, and a bool mask; m = most prototypes of a class in a scale."""
    if class_of.numel() == 0:
        empty = torch.zeros(0, 0, 0, dtype=torch.int64, device=class_of.device)
        return empty, empty.bool()
    classes, scales = int(class_of.max()) + 1, int(scale_of.max()) + 1
    cell = class_of * scales + scale_of
    counts = torch.bincount(cell, minlength=classes * scales)
    filled = torch.arange(int(counts.max()), device=class_of.device) < counts[:, None]
    slots = torch.zeros_like(filled, dtype=torch.int64)
    slots[filled] = cell.argsort(stable=True)
    return slots.view(classes, scales, -1), filled.view(classes, scales, -1)


def parts_on(device: torch.device, cells: int) -> int:
    """How many sums the cells of a segment are first added to."""
    return 1 if device.type == "cpu" else -(-cells // SHARED)


class _Cells:
    """Cells and the segment (image and class) of each, for sums and a softmax over those of a segment.

    Where segments are few and cells many, a GPU's additions to one number wait for each other. So it adds cells up by
    ``SHARED`` at most, and then these sums; a CPU adds one after another in any case.

    Args:
        segment: (N,) segment of each cell.
        segments: how many there are.
        largest: cells that a segment can have.
    """

    def __init__(self, segment: Tensor, segments: int, largest: int) -> None:
        self.parts = parts_on(segment.device, largest)
        self.segments = segments
        self.part = segment * self.parts + torch.arange(len(segment), device=segment.device) % self.parts

    def sum(self, values: Tensor) -> Tensor:
        """Sums (segments, ...) of ``values`` (N, ...)."""
        sums = values.new_zeros(self.segments * self.parts, *values.shape[1:]).index_add(0, self.part, values)
        return sums.view(self.segments, self.parts, *values.shape[1:]).sum(1)

    def count(self) -> Tensor:
        """(segments,) cells in each."""
        return occurrences(self.part, self.segments * self.parts).view(self.segments, self.parts).sum(1)

    def log_softmax(self, values: Tensor) -> Tensor:
        """Log-softmax of each column of ``values`` (N, ...) over the cells of a segment."""
        flat = values.flatten(1)
        index = self.part[:, None].expand_as(flat)
        empty = flat.detach().new_full((self.segments * self.parts, flat.shape[1]), -torch.inf)
        top = empty.scatter_reduce(0, index, flat.detach(), "amax").view(self.segments, self.parts, -1).amax(1)
        centred = flat - self._at_cells(top)
        # Rows of empty segments are never read.
        total = self.sum(centred.exp()).clamp_min(torch.finfo(flat.dtype).tiny).log()
        return (centred - self._at_cells(total)).view(values.shape)

    def _at_cells(self, values: Tensor) -> Tensor:
        """Of values (segments, k), those of each cell's segment; index_select, unlike indexing, has a fast backward."""
        return values.repeat_interleave(self.parts, 0).index_select(0, self.part)
