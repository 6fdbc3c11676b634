"""Lines of a metric's curves, in colours for every eye."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe and Ito
MARKERS = "osD^v*"

Line = tuple[str, Sequence[float], Sequence[float]]


def lines(axes: Axes, curves: Sequence[Line], x: str, y: str) -> None:
    """Draws curves with a legend.

    Args:
        axes: drawn on.
        curves: (label, places, values) each.
        x: what the places are.
        y: what the values are.
    """
    for (label, xs, ys), colour, marker in zip(curves, COLOURS, MARKERS, strict=False):
        axes.plot(xs, ys, color=colour, marker=marker, label=label)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
