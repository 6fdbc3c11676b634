"""What parts of a logit say, and for whom: from their strengths where each class is answered."""

from __future__ import annotations

import torch
from torch import Tensor


def spoken_for(strengths: Tensor, cells: Tensor, shares: Tensor) -> Tensor:
    """The class (P,) int64 whose cells each part speaks for most: it fires there, and for that class.

    The largest weight alone says less: a part may be for cars more than for anything else, and never fire at one. It
    counts where a part speaks against every class at which it fires, or fires nowhere.

    Args:
        strengths: (C, P) sum of each part's strengths, >= 0, over the cells that are answered with each class.
        cells: (C,) number of these.
        shares: (C, P) what a strength of 1 adds to each logit.
    """
    against_all = shares - shares.mean(0)  # what is added to every class alike changes no answer
    added = strengths / cells.clamp_min(1)[:, None] * against_all
    most, of = added.max(0)
    return torch.where(most > 0, of, shares.argmax(0))


def most_of_all(sizes: Tensor, part: float) -> Tensor:
    """bool (P,): the fewest of sizes (P,) >= 0 that make up ``part`` of their sum, the largest first; all for 1."""
    if part >= 1:
        return torch.ones_like(sizes, dtype=torch.bool)
    order = sizes.double().argsort(descending=True, stable=True)
    before = sizes.double()[order].cumsum(0) - sizes.double()[order]
    chosen = torch.zeros_like(sizes, dtype=torch.bool)
    chosen[order[before < part * sizes.double().sum()]] = True
    return chosen
