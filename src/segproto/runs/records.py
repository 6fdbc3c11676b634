"""What the files of a run may hold, as far as reports and comparisons read it; more is left alone."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from segproto.files.documents import Record
from segproto.training.figures import FiguresRecord


class Finished(Record):
    """``checkpoints/finished.json``."""

    stages: dict[str, FiguresRecord] = Field(default_factory=dict)
    seconds: float | None = None


class Line(Record):
    """A line of ``metrics.jsonl``."""

    stage: str | None = None
    step: float | None = None
    loss: float | None = None
    val_miou: float | None = None

    @model_validator(mode="after")
    def _of_a_stage(self) -> Self:
        if self.step is not None and self.stage is None:
            raise ValueError("a step of no stage")
        return self


class Scenes(Record):
    """How many generated images."""

    num_train: int
    num_val: int


class Data(Record):
    """A recipe's ``data``."""

    name: str
    root: str | None = None
    scenes: Scenes | None = None


class Settings(Record):
    """``recipe.yaml``."""

    method: str
    data: Data
    train: dict[str, Any]
    compare: str | None = None


class Metric(Record):
    """One interpretability metric: its value, or the reason why there is none."""

    value: float | None = None
    meaning: str = ""
    reason: str | None = None
    unit: str | None = None


class Measured(Record):
    """``evaluation/val-interpretability.json``."""

    metrics: dict[str, Metric] = Field(default_factory=dict)


class Threshold(Record):
    """A row of ``evaluation/thresholds.json``."""

    tau: float
    prototypes_used: int
    group_average: float
    miou: float | None


class Thresholds(Record):
    """``evaluation/thresholds.json``."""

    rows: list[Threshold] = Field(default_factory=list)


class Change(Record):
    """A score before and after an edit; None without a pixel of the class."""

    before: float | None
    after: float | None
    change: float | None


class ClassChange(Change):
    """Of one class."""

    name: str


class Counts(Record):
    """Prototypes before and after an edit."""

    before: int
    after: int


class Edit(Record):
    """``edit.json``."""

    edits: list[str]
    prototypes: Counts
    images: int
    per_class: list[ClassChange]
    miou: Change
