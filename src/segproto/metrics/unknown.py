"""How well a score tells unknown pixels from known ones: AUROC, average precision, FPR at 95 % TPR.

The figures that out-of-distribution benchmarks report (Chan et al. 2021, SegmentMeIfYouCan,
https://arxiv.org/abs/2104.14812). The unknown is the positive class, and a high score says unknown.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segproto.metrics.accumulate import Accumulator, scored
from segproto.prototypes.labels import IGNORE_INDEX

MOST = 0.01  # of an image's pixels: the share that says how unknown the image is
BITS = 20  # of a score's 32 that an accumulator tells apart: sign, exponent, 11 of the mantissa
KNOWN, UNKNOWN = 0, 1  # in masks; 255 = void


def auroc(unknown: Tensor, known: Tensor) -> float | None:
    """The chance that a random unknown pixel scores higher than a random known one; equal scores count half.

    Args:
        unknown: (K,) unknown pixels at each of K scores, ascending.
        known: (K,) known pixels at the same scores.

    Returns:
        A value in 0..1; None without pixels of both kinds.
    """
    u, k = unknown.double(), known.double()
    if not (u.sum() and k.sum()):
        return None
    below = k.cumsum(0) - k
    return float((u * (below + k / 2)).sum() / u.sum() / k.sum())


def average_precision(unknown: Tensor, known: Tensor) -> float | None:
    """``sum_n (R_n - R_{n-1}) P_n`` over thresholds from high to low; arguments and range as :func:`auroc`."""
    u, k = unknown.double().flip(0), known.double().flip(0)
    if not (u.sum() and k.sum()):
        return None
    found, wrong = u.cumsum(0), k.cumsum(0)
    precision = found / (found + wrong).clamp_min(1)
    return float((u * precision).sum() / u.sum())


def false_positive_rate(unknown: Tensor, known: Tensor, tpr: float = 0.95) -> float | None:
    """The share of known pixels above the highest threshold at which ``tpr`` of the unknown ones are found.

    Args: as :func:`auroc`.
    """
    u, k = unknown.double().flip(0).cumsum(0), known.double().flip(0).cumsum(0)
    if not (u[-1] and k[-1]):
        return None
    first = int((u >= tpr * u[-1] - 1e-9).int().argmax())
    return float(k[first] / k[-1])


def counts_by_score(scores: Tensor, unknown: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels at each distinct score, ascending.

    Args:
        scores: (N,).
        unknown: bool (N,).

    Returns:
        Unknown and known pixels, int64 (K,) each.
    """
    values, place = torch.unique(scores, return_inverse=True)
    every, positive = (torch.bincount(p, minlength=len(values)) for p in (place, place[unknown]))
    return positive, every - positive


def image_score(scores: Tensor) -> float:
    """How unknown an image is: the mean of the highest ``MOST`` of its pixels' scores (N,), at least of one."""
    return float(scores.flatten().double().topk(max(1, int(MOST * scores.numel()))).values.mean())


def bin_of(scores: Tensor) -> Tensor:
    """Scores of any range, float (N,), to one of ``2 ** BITS`` bins (int64) in the same order.

    The first bits of a float32 are kept, so that scores fall together only if they differ by less than 1/2048 of
    themselves.
    """
    bits = (scores.float() + 0.0).contiguous().view(torch.int32).long()  # + 0: -0 is 0
    ordered = torch.where(bits < 0, -(2**31) - bits - 1, bits) + 2**31
    return ordered >> (32 - BITS)


class UnknownPixels(Accumulator):
    """AUROC, average precision and FPR at 95 % TPR over the pixels of many images, and AUROC over the images."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = {"images": []}  # index, score, whether a pixel is unknown
        self.counts = {name: torch.zeros(2**BITS, dtype=torch.int64) for name in ("unknown", "known")}

    def update(self, scores: Tensor, truth: Tensor, index: int) -> None:
        """Takes one image in.

        Args:
            scores: (H, W) finite, high = unknown.
            truth: (H, W) 1 = unknown, 0 = known, 255 = void.
            index: of the image.
        """
        truth = truth.to(scores.device)
        for name, value in (("unknown", UNKNOWN), ("known", KNOWN)):
            self.counts[name] += torch.bincount(bin_of(scores[truth == value]), minlength=2**BITS).cpu()
        told = truth != IGNORE_INDEX
        if told.any():
            row = [index, image_score(scores[told]), float((truth == UNKNOWN).any())]
            self.rows["images"].append(torch.tensor([row], dtype=torch.float64))

    def compute(self) -> dict[str, Any]:
        """The figures over pixels (``value`` is AUROC) and, of :func:`image_score`, over images.

        Returns:
            ``value``, ``average_precision``, ``fpr95``, the pixels of each kind (``unknown``, ``known``);
            ``image_auroc`` of the images that show something unknown against those that show none, and how many there
            are of each.
        """
        unknown, known = self.counts["unknown"], self.counts["known"]
        images = self.table("images")
        unknown_images = images[:, 2] > 0 if len(images) else torch.zeros(0, dtype=torch.bool)
        scores = images[:, 1] if len(images) else torch.zeros(0)
        return scored(
            auroc(unknown, known),
            "no pixel is unknown, or none is known",
            average_precision=average_precision(unknown, known),
            fpr95=false_positive_rate(unknown, known),
            unknown=int(unknown.sum()),
            known=int(known.sum()),
            image_auroc=auroc(*counts_by_score(scores, unknown_images)),
            unknown_images=int(unknown_images.sum()),
            known_images=int((~unknown_images).sum()),
        )


def truth_of(values: Tensor) -> Tensor | None:
    """A mask whose values are 0, 1 and 255 only, as it is; None for any other."""
    return values if bool(((values == KNOWN) | (values == UNKNOWN) | (values == IGNORE_INDEX)).all()) else None
