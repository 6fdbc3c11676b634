"""What the files of a run may hold, as far as reports and comparisons read it; more is left alone."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator


class Record(BaseModel):
    """A JSON object with more keys than are named here."""

    model_config = ConfigDict(extra="allow")


class ClassFigures(Record):
    """Of one class: its IoU, None without a pixel, and its pixels."""

    name: str
    iou: float | None = None
    pixels: int = 0


class Match(Record):
    """A found category and the class it was matched to."""

    category: str


class Figures(Record):
    """``result.json`` of a stage and ``evaluation/*.json``."""

    miou: float | None = None
    accuracy: float | None = None
    per_class: list[ClassFigures] = []
    matching: list[Match] = []
    prototypes: int | None = None
    prototypes_used: int | None = None
    prototypes_start: int | None = None
    group_average: float | None = None
    seconds: float | None = None
    cam_miou: float | None = None
    mask_miou: float | None = None


class Finished(Record):
    """``checkpoints/finished.json``."""

    stages: dict[str, Any] = {}
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
