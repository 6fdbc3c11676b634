"""``segproto evaluate --cams``: a folder of class activation maps against true masks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.report.runs import keep

if TYPE_CHECKING:
    from segproto.data.labels import LabelMap


def score_cams(
    cams: str | Path,
    *,
    gt: str | Path,
    names: str | Path | None = None,
    classes: str | Path | None = None,
    void: int = 255,
    curve: bool = False,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Scores a folder of class activation maps at all background thresholds, in one pass.

    Args:
        cams: npz files of a pixelcontrast run (``stages/cams/maps``), or npy dicts as published code writes them.
        gt: ground truth of the same names; its values are those of ``classes``, or class indices, 0 = background.
        names: a text file with the names to score, one a line; default: all that have maps and a mask.
        classes: a ``classes.yaml``; default: the one in ``gt``, if any.
        void: value in ``gt`` that does not count, where there is no ``classes.yaml``.
        curve: also draw the curve, as a PNG beside ``out``.
        out: JSON file to write.
    """
    from segproto.evaluation.cams import plot_curve
    from segproto.evaluation.cams import score_cams as score

    labels, list_file = truth_labels(gt, classes), None if names is None else Path(names)
    figures = keep(
        score(Path(cams), Path(gt), classes=labels, list_file=list_file, void=void) | {"command": sys.argv}, out
    )
    if curve and out is not None:
        plot_curve(figures, Path(out).with_suffix(".png"))
    return figures


def truth_labels(gt: str | Path, classes: str | Path | None) -> LabelMap | None:
    """What the values of a folder of masks mean: a given ``classes.yaml``, the one in the folder, or nothing."""
    from segproto.data.classes import find_classes, read_classes

    table = Path(gt) / "classes.yaml" if classes is None else find_classes(Path(classes), Path(gt))
    return read_classes(table).labels if classes is not None or table.is_file() else None
