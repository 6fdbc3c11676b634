"""What stages and runs report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from segproto.files.documents import Record

Figures = dict[str, Any]
"""What a stage found, JSON-ready: it becomes ``stages/NAME/result.json`` and is read by name only."""

Logged = Mapping[str, float | Sequence[float] | None]
"""A line of ``metrics.jsonl``: numbers, or lists of them, by name."""


class ClassFigures(Record):
    """Of one class: its IoU, None without a pixel, and its pixels."""

    name: str
    iou: float | None = None
    pixels: int = 0


class Match(Record):
    """A found category and the class it was matched to."""

    category: str


class FiguresRecord(Record):
    """``result.json`` of a stage and ``evaluation/*.json``."""

    miou: float | None = None
    accuracy: float | None = None
    per_class: list[ClassFigures] = Field(default_factory=list)
    matching: list[Match] = Field(default_factory=list)
    prototypes: int | None = None
    prototypes_used: int | None = None
    prototypes_start: int | None = None
    group_average: float | None = None
    seconds: float | None = None
    cam_miou: float | None = None
    mask_miou: float | None = None
