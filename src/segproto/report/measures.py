"""The metric tables of a report: every metric in a run's ``evaluation`` folder, with one sentence per figure."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from segproto.data.images import open_picture
from segproto.evaluation.interpretability.metric import SHARE
from segproto.evaluation.interpretability.table import METRICS
from segproto.report.curves import Chart, svg
from segproto.report.pictures import image_uri
from segproto.runs.folder import Run, read_json
from segproto.runs.records import Edit, Measured, Thresholds

CURVES = 1400  # longest side of the picture of curves, in pixels


def metric_rows(run: Run) -> list[dict[str, str]]:
    """Name, figure in words, and what it means (or why there is none) of every interpretability metric."""
    rows = []
    for name, metric in read_metrics(run).items():
        value = metric.get("value")
        reason = str(metric.get("reason") or "not measured").rstrip(".")
        rows.append(
            {
                "name": name.replace("_", " "),
                "value": figure(value, unit_of(name, metric)),
                "meaning": str(metric.get("meaning", "")),
                "reason": reason if value is None else "",
            }
        )
    return rows


def read_metrics(run: Run) -> dict[str, dict[str, Any]]:
    """The metrics measured on the validation images; empty before ``segproto evaluate RUN --interpretability``."""
    value = read_json(run.path / "evaluation" / "val-interpretability.json", Measured) or {}
    metrics: dict[str, dict[str, Any]] = value.get("metrics", {})
    return metrics


def metric_picture(run: Run) -> str | None:
    """The curves that ``segproto evaluate --interpretability`` drew, as a data URI; None without them."""
    file = run.path / "evaluation" / "val-interpretability.png"
    if not file.exists():
        return None
    with open_picture(file) as picture:
        return image_uri(picture.convert("RGB"), "jpeg", CURVES)


def unit_of(name: str, figures: dict[str, Any]) -> str:
    """A metric's unit, as kept with its figures; older files lack it."""
    usual = METRICS[name].unit if name in METRICS else ""
    return str(figures.get("unit", usual))


def figure(value: float | None, unit: str) -> str:
    """A metric's value for people; an en dash where there is none."""
    if value is None:
        return "\N{EN DASH}"
    if unit == SHARE:
        return f"{100 * value:.1f} %"
    return f"{value:.3g}"


def threshold_rows(run: Run) -> list[dict[str, Any]]:
    """What ``segproto ablate thresholds`` measured; empty before it."""
    value = read_json(run.path / "evaluation" / "thresholds.json", Thresholds) or {}
    rows: list[dict[str, Any]] = value.get("rows", [])
    return rows


def threshold_charts(rows: list[dict[str, Any]]) -> list[tuple[str, Markup]]:
    """mIoU and prototypes in use against the threshold, as SVG."""
    if len(rows) < 2:
        return []
    drawn = {"miou": ("mIoU (%)", 100), "prototypes_used": ("Prototypes in use", 1)}
    out = []
    for key, (title, times) in drawn.items():
        points = [(float(row["tau"]), times * float(row[key])) for row in rows if row[key] is not None]
        if len(points) > 1:
            out.append((title, svg(Chart(points, [], dots=True), title, "{:g}")))
    return out


def edit_figures(run: Run) -> dict[str, Any]:
    """What ``segproto edit`` left in the run, if it made it; else empty."""
    return read_json(run.path / "edit.json", Edit) or {}
