"""Scores of class activation maps over all background thresholds, in one pass over the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from segproto.metrics.segmentation import SegmentationScores, segmentation_scores
from segproto.prototypes.labels import IGNORE_INDEX


@dataclass(frozen=True)
class CurvePoint:
    """The scores at one threshold."""

    threshold: float
    scores: SegmentationScores


class CamCurve:
    """Counts every pixel once, by true class, best foreground class and the threshold up to which that class wins.

    A pixel takes its best foreground class where that score exceeds the threshold (in float32, so a tie is background),
    as published; the IoU mean leaves out classes neither predicted nor present.

    Args:
        num_classes: C, background included (class 0).
        thresholds: ascending; published: 0.00, 0.01 .. 0.59.
        ignore_index: void pixels of the truth.

    Attributes:
        counts: int64 (C true, C best, T + 1 thresholds passed).
    """

    def __init__(self, num_classes: int, thresholds: Tensor | None = None, ignore_index: int = IGNORE_INDEX) -> None:
        self.num_classes = num_classes
        self.thresholds = torch.arange(60) / 100 if thresholds is None else thresholds.float()
        self.ignore_index = ignore_index
        self.counts = torch.zeros(num_classes, num_classes, len(self.thresholds) + 1, dtype=torch.int64)

    def update(self, scores: Tensor, classes: Tensor, target: Tensor) -> None:
        """Counts one image.

        Args:
            scores: (K, H, W) float maps of the classes that are present; K may be 0.
            classes: (K,) int64 their classes, 1..C-1; of equal scores the first wins, so pass them ascending.
            target: (H, W) int64 true classes.

        Raises:
            ValueError: if sizes differ.
        """
        if scores.shape[1:] != target.shape or len(scores) != len(classes):
            raise ValueError(
                f"maps are {tuple(scores.shape)} of {len(classes)} classes, target is {tuple(target.shape)}; expected "
                "(K, H, W) of K classes and (H, W)"
            )
        valid = target != self.ignore_index
        if len(scores):
            best, index = scores.float().max(0)
            best, label = best[valid], classes.to(index.device)[index[valid]]
            passed = torch.bucketize(best, self.thresholds.to(best.device))
        else:
            label = passed = torch.zeros(int(valid.sum()), dtype=torch.int64, device=target.device)
        t, c = len(self.thresholds) + 1, self.num_classes
        flat = (target[valid].long() * c + label) * t + passed
        counts = torch.bincount(flat, minlength=c * c * t)
        if len(counts) > c * c * t:
            raise ValueError(f"a class is outside 0..{c - 1}; expected classes and labels below num_classes")
        self.counts += counts.view(c, c, t).to(self.counts.device)

    def merge(self, other: CamCurve) -> None:
        """Adds the counts of another accumulator of the same thresholds."""
        self.counts += other.counts

    def confusions(self) -> Tensor:
        """int64 (T, C, C) confusion matrices, rows = true classes."""
        reached = self.counts.flip(2).cumsum(2).flip(2)[..., 1:]  # pixels that pass threshold i
        matrices = reached.movedim(2, 0).clone()
        matrices[:, :, 0] += (self.counts.sum(2)[..., None] - reached).sum(1).T
        return matrices

    def compute(self, reduce: Callable[[Tensor], Tensor] | None = None) -> list[CurvePoint]:
        """One point per threshold.

        Args:
            reduce: sums an int64 tensor over all processes; None for one process.
        """
        if reduce is not None:
            self.counts = reduce(self.counts)
        pairs = zip(self.thresholds.tolist(), self.confusions(), strict=True)
        return [CurvePoint(round(t, 6), segmentation_scores(matrix)) for t, matrix in pairs]


def best_point(points: list[CurvePoint]) -> CurvePoint:
    """The point of the highest mean IoU, the lowest threshold on ties."""
    return max(points, key=lambda p: p.scores.miou if p.scores.miou is not None else -1.0)
