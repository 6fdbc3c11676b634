"""The tables of a report: classes, stages, training curves, and the gallery's order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from segproto.data.base import ClassTable
from segproto.model.segmenter import Segmenter
from segproto.report import gallery
from segproto.report.curves import in_percent, read_chart, svg
from segproto.runs.folder import Run

NOTICED = 0.1  # share of the time; less is no use to anybody to know


def css(colour: tuple[int, int, int]) -> str:
    """``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


@dataclass(frozen=True)
class ClassRow:
    """One line of the per-class table; shares in 0..1, None where unknown."""

    name: str
    colour: str
    iou: float | None
    other: float | None
    share: float | None
    prototypes: int
    used: int


def class_rows(run: Run, other: Run | None, model: Segmenter) -> list[ClassRow]:
    """The per-class table; a category found without labels has the figures of the class it was matched to."""
    ours = {row["name"]: row for row in run.evaluation.get("per_class", [])}
    theirs = {row["name"]: row for row in other.evaluation.get("per_class", [])} if other is not None else {}
    matched = {row["category"]: row["class"] for row in run.evaluation.get("matching", []) if row["class"]}
    total = sum(row["pixels"] for row in ours.values()) or 1
    owners = [] if model.head.bank is None else model.head.bank.class_of.tolist()
    used = gallery.used(model)
    rows = []
    for c, (name, colour) in enumerate(zip(model.classes.names, model.classes.colours, strict=True)):
        label = matched.get(name, name)  # as the evaluation calls it
        rows.append(
            ClassRow(
                name=f"{name}: {label}" if name in matched else name,
                colour=css(colour),
                iou=ours.get(label, {}).get("iou"),
                other=theirs.get(label, {}).get("iou"),
                share=ours[label]["pixels"] / total if label in ours else None,
                prototypes=owners.count(c),
                used=sum(in_use and owner == c for owner, in_use in zip(owners, used, strict=True)),
            )
        )
    return rows


def stage_rows(run: Run) -> list[dict[str, Any]]:
    """The stage table; figures a stage did not change are carried on."""
    begun = [stage["prototypes_start"] for stage in run.stages if "prototypes_start" in stage]
    carried = {"prototypes": begun[0] if begun else None, "prototypes_used": None, "group_average": None}
    rows = []
    for stage in run.stages:
        carried |= {key: stage[key] for key in carried if stage.get(key) is not None}
        rows.append({"name": stage["stage"], "words": stage.get("words", ""), "miou": stage.get("miou")} | carried)
    return rows


def charts(run: Run, other: Run | None) -> list[tuple[str, Markup]]:
    """Title and SVG of each training curve there are data for."""
    limit = other.figures()["miou"] if other is not None else None
    reference = (other.method, limit) if other is not None and limit is not None else None
    curves = [
        ("Validation mIoU (%)", "{:g}", read_chart(run.metrics, "val_miou", reference, dots=True)),
        ("Training loss", "{:.2f}", read_chart(run.metrics, "loss")),
    ]
    waiting = read_chart(run.metrics, "waiting")
    if waiting is not None and max(share for _, share in waiting.points) > NOTICED:
        curves.append(("Time spent waiting for images (%): more with data.workers lowers it", "{:g}", waiting))
    return [
        (title, svg(in_percent(chart) if "%" in title else chart, title, form))
        for title, form, chart in curves
        if chart is not None
    ]


def by_class(model: Segmenter, cards: list[gallery.Card | None]) -> list[dict[str, Any]]:
    """The gallery: per class its cards, used ones by what they decide, then the unused."""
    rows = []
    table: ClassTable = model.classes
    for c, (name, colour) in enumerate(zip(table.names, table.colours, strict=True)):
        own = sorted(
            (card for card in cards if card is not None and card.class_id == c), key=lambda card: -card.decides
        )
        used, unused = [card for card in own if card.used], [card for card in own if not card.used]
        rows.append({"name": name, "colour": css(colour), "used": used, "unused": unused})
    return rows if cards else []
