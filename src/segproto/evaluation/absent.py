"""Words about classes that the scored images do not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segproto.prototypes.labels import IGNORE_INDEX


def absent_words(per_class: Sequence[Mapping[str, Any]]) -> str:
    """What a mean over classes leaves out, `` over 1 of 2 classes (not in these images: cat)``; empty if nothing.

    Args:
        per_class: of :func:`segproto.evaluation.tally.report`.
    """
    if len(per_class) > IGNORE_INDEX:  # void has a row there
        per_class = [row for number, row in enumerate(per_class) if number != IGNORE_INDEX]
    absent = [str(row["name"]) for row in per_class if not row["pixels"]]
    if not absent:
        return ""
    counted = sum(row["iou"] is not None for row in per_class)
    names = ", ".join(absent[:4]) + (f" and {len(absent) - 4} more" if len(absent) > 4 else "")
    return f" over {counted} of {len(per_class)} classes (not in these images: {names})"
