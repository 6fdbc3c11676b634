"""Pictures of the figures that are curves: components against scale, equivariance against its threshold, deletion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe and Ito: for every eye
MARKERS = "osD^v*"


def draw(metrics: dict[str, Any], path: Path) -> bool:
    """Writes one PNG with a panel for each curve that was measured; False if there is none.

    Args:
        metrics: of :func:`segproto.evaluation.interpretability.run.interpret`.
        path: the file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [panel for name, panel in PANELS if metrics.get(name, {}).get("value") is not None]
    if not panels:
        return False
    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for place, panel in enumerate(panels, 1):
        panel(figure.add_subplot(1, len(panels), place), metrics)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return True


def _lines(axes: Axes, lines: list[tuple[str, list[Any], list[Any]]], x: str, y: str) -> None:
    for (label, xs, ys), colour, marker in zip(lines, COLOURS, MARKERS, strict=False):
        axes.plot(xs, ys, color=colour, marker=marker, label=label)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def _components(axes: Axes, metrics: dict[str, Any], key: str, y: str) -> None:
    rows = metrics["components"]["per_quantile"]
    scales = list(range(1, len(rows[0][key]) + 1))
    _lines(axes, [(f"top {100 * (1 - r['quantile']):.0f} %", scales, r[key]) for r in rows], "scale", y)
    axes.set_xticks(scales)
    axes.set_ylim(bottom=0)


def _counts(axes: Axes, metrics: dict[str, Any]) -> None:
    _components(axes, metrics, "count", "components a map")


def _areas(axes: Axes, metrics: dict[str, Any]) -> None:
    _components(axes, metrics, "area", "their mean area (share of the image)")


def _equivariance(axes: Axes, metrics: dict[str, Any]) -> None:
    readings = metrics["equivariance"]["readings"].items()
    lines = [(name, [p["threshold"] for p in r["curve"]], [p["classes"] for p in r["curve"]]) for name, r in readings]
    _lines(axes, lines, "IoU threshold", "classes with an equivariant pair")
    axes.set_ylim(-0.03, 1.03)


def _deletion(axes: Axes, metrics: dict[str, Any]) -> None:
    found = metrics["faithfulness"]
    rows = [r for r in found["rows"] if (r["measure"], r["mode"], r["fill"]) == ("probability", "delete", "mean")]
    lines = [(r["region"], found["fractions"], r["curve"]) for r in rows]
    _lines(axes, lines, "share of the class deleted (mean colour)", "probability of the class")


PANELS = (("components", _counts), ("components", _areas), ("equivariance", _equivariance), ("faithfulness", _deletion))
