"""A word on each prototype that does not pull its weight."""

from __future__ import annotations

import torch
from torch import Tensor

from segproto.model.edit import WITHIN, merge_leaders
from segproto.model.segmenter import Segmenter

UNUSED = "no weight leads to it"


def health_words(model: Segmenter, used: list[bool], decided: Tensor | None) -> list[str]:
    """One short remark per prototype: unused, a copy of another, decides nothing; empty for a healthy one.

    Args:
        model: with prototypes.
        used: whether any weight leads to each.
        decided: (P,) share of its class that each decides; None = not measured.
    """
    leaders = merge_leaders(model, WITHIN).tolist()
    dead = torch.zeros(len(used), dtype=torch.bool) if decided is None else decided == 0
    words = []
    for p, leader in enumerate(leaders):
        if not used[p]:
            words.append(UNUSED)
        elif leader != p:
            words.append(f"copy of #{leader}")
        elif bool(dead[p]):
            words.append("decides nothing")
        else:
            words.append("")
    return words
