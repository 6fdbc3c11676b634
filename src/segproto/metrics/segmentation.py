"""Segmentation accuracy from one confusion matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from segproto.prototypes.labels import IGNORE_INDEX

BLOCK = 2**18  # pixels counted at once: their indices take 8 bytes each


def confusion_matrix(pred: Tensor, target: Tensor, num_classes: int, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Counts of (true class, predicted class) over the pixels whose target is not void.

    Args:
        pred: predicted classes 0..C-1, any integer type and shape.
        target: labels, same shape; ``ignore_index`` = void.
        num_classes: C.
        ignore_index: the void label.

    Returns:
        int64 (C, C); rows are true classes.

    Raises:
        ValueError: if shapes differ, or a counted pixel lies outside 0..C-1.

    Examples:
        >>> import torch
        >>> confusion = confusion_matrix(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 255]), num_classes=2)
        >>> confusion
        tensor([[1, 1],
                [0, 1]])
        >>> segmentation_scores(confusion).iou
        (0.5, 0.5)
    """
    if pred.shape != target.shape:
        raise ValueError(f"prediction is {tuple(pred.shape)}, target is {tuple(target.shape)}; expected equal shapes")
    counts = torch.zeros(num_classes**2, dtype=torch.int64, device=target.device)
    for true, found in zip(*(torch.split(part.flatten(), BLOCK) for part in (target, pred)), strict=True):
        valid = true != ignore_index
        rows, columns = true[valid].to(torch.int64), found[valid].to(torch.int64)
        for name, values in (("prediction", columns), ("target", rows)):
            if values.numel() and (int(values.min()) < 0 or int(values.max()) >= num_classes):
                bad = int(values.max()) if int(values.min()) >= 0 else int(values.min())
                raise ValueError(f"{name} holds class {bad}, expected 0..{num_classes - 1} or {ignore_index}")
        counts += torch.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return counts.view(num_classes, num_classes)


@dataclass(frozen=True)
class SegmentationScores:
    """Scores in [0, 1].

    Attributes:
        miou: mean of the defined class IoUs; None if there is none.
        accuracy: share of the non-void pixels that are right; None without such pixels.
        iou: IoU per class; None for a class neither predicted nor present, which the mean leaves out.
        pixels: non-void pixels a true class.
    """

    miou: float | None
    accuracy: float | None
    iou: tuple[float | None, ...]
    pixels: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"iou": list(self.iou), "pixels": list(self.pixels)}


def segmentation_scores(confusion: Tensor, undecided: Tensor | None = None) -> SegmentationScores:
    """IoU = intersection / union over the whole set, per class and as the mean over classes with a union.

    Args:
        confusion: int64 (C, C), rows = true classes.
        undecided: int64 (C,) further pixels a true class, for which no class was predicted; they count as wrong.
    """
    counts = confusion.to("cpu", torch.float64)
    intersection = counts.diagonal()
    true = counts.sum(1) if undecided is None else counts.sum(1) + undecided.to(counts)
    union = counts.sum(0) + true - intersection
    iou = intersection / union
    defined = union > 0
    total = true.sum()
    return SegmentationScores(
        miou=iou[defined].mean().item() if bool(defined.any()) else None,
        accuracy=(intersection.sum() / total).item() if total > 0 else None,
        iou=tuple(v if ok else None for v, ok in zip(iou.tolist(), defined.tolist(), strict=True)),
        pixels=tuple(int(v) for v in true.tolist()),
    )


class ConfusionMatrix:
    """Accumulates ``confusion_matrix`` over batches and processes.

    Args:
        num_classes: C.
        ignore_index: the void label.

    Attributes:
        counts: int64 (C, C), rows = true classes.
    """

    def __init__(self, num_classes: int, ignore_index: int = IGNORE_INDEX) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Adds predictions and labels of equal shape."""
        counts = confusion_matrix(pred, target, self.num_classes, self.ignore_index)
        self.counts = self.counts.to(counts.device) + counts

    def merge(self, other: ConfusionMatrix) -> None:
        """Adds the counts of another accumulator."""
        self.counts = self.counts + other.counts.to(self.counts.device)

    def compute(self, reduce: Callable[[Tensor], Tensor] | None = None) -> SegmentationScores:
        """The scores so far.

        Args:
            reduce: sums an int64 tensor over all processes; None for one process.
        """
        return segmentation_scores(reduce(self.counts) if reduce else self.counts)
