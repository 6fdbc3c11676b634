"""Where values of two kinds part (Otsu 1979: *A threshold selection method from gray-level histograms*)."""

from __future__ import annotations

from torch import Tensor


def otsu_threshold(counts: Tensor) -> float | None:
    """The limit between bins that parts values of 0..1 into two kinds with the largest variance between them.

    Args:
        counts: (B,) how many values lie in each of B equal parts of 0..1.

    Returns:
        In 0..1, a limit of bins, the middle one of several that part alike; None where all values lie in one bin.
    """
    frequency = counts.double() / counts.sum().clamp_min(1)
    bins = len(counts)
    centres = (frequency.new_tensor(range(bins)) + 0.5) / bins
    below, mean = frequency.cumsum(0)[:-1], (frequency * centres).cumsum(0)
    apart = (mean[-1] * below - mean[:-1]).square() / (below * (1 - below)).clamp_min(1e-12)
    apart = apart * ((below > 0) & (below < 1))
    if not bool((apart > 0).any()):
        return None
    best = (apart >= apart.max() * (1 - 1e-12)).nonzero().flatten()
    return float(best[len(best) // 2] + 1) / bins
