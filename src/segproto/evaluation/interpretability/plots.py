"""Pictures of the figures that are curves: components against scale, equivariance against its threshold, deletion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segproto.evaluation.interpretability.table import METRICS
from segproto.files import write_picture


def draw(metrics: dict[str, Any], path: Path) -> bool:
    """Writes one PNG with a panel for each curve that was measured; False if there is none.

    Args:
        metrics: of :func:`segproto.evaluation.interpretability.run.interpret`.
        path: the file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = {name: figures for name, figures in metrics.items() if figures.get("value") is not None}
    panels = [(panel, measured[m.name]) for m in METRICS.values() if m.name in measured for panel in m.panels]
    if not panels:
        return False
    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (panel, figures) in enumerate(panels, 1):
        panel(figure.add_subplot(1, len(panels), number), figures)
    write_picture(path, lambda file: figure.savefig(file, dpi=110), None)
    return True
