"""Scores a folder of class activation maps over all background thresholds, against ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from segproto.data.base import ClassTable
from segproto.data.cams import cam_files, read_cams
from segproto.data.labels import LabelMap
from segproto.data.pairs import read_list
from segproto.data.palette import default_colours
from segproto.errors import DataError
from segproto.evaluation.masks import mask_files, read_mask
from segproto.evaluation.tally import report
from segproto.files import write_picture
from segproto.metrics.cam_curve import CamCurve, best_point
from segproto.prototypes.labels import IGNORE_INDEX


def score_cams(
    cams: Path,
    gt: Path,
    *,
    classes: ClassTable | LabelMap | int | None = None,
    list_file: Path | None = None,
    void: int = IGNORE_INDEX,
    thresholds: Sequence[float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Every image is read once, whatever the number of thresholds (:class:`segproto.metrics.cam_curve.CamCurve`).

    Args:
        cams: folder of maps, see :func:`segproto.data.cams.read_cams`.
        gt: folder of true masks of the same names.
        classes: names, or how many, class 0 = background; a label map translates the values of ``gt``; None = up to the
            largest value found.
        list_file: the names to score, one per line; None = every image that has maps and a true mask.
        void: the void value of ``gt``.
        thresholds: of the background; None = 0.00, 0.01 .. 0.59 as published.
        progress: called with (images done, images).

    Returns:
        As :func:`segproto.evaluation.masks.score_masks` at the best threshold, with ``threshold``, ``curve`` (a row per
        threshold: ``threshold``, ``miou``, ``accuracy``), ``without_gt`` and ``without_cams`` (names not counted).

    Raises:
        DataError: in one line, for a damaged file, maps of another size than the mask, or a class out of range.
    """
    scored, truth = cam_files(cams), mask_files(gt, "--gt")
    names = read_list(list_file) if list_file is not None else [name for name in scored if name in truth]
    for folder, files in ((cams, scored), (gt, truth)):
        if missing := [name for name in names if name not in files]:
            raise DataError(f"{folder}: {len(missing)} of {len(names)} names are missing, first {missing[0]!r}")
    if not names:
        raise DataError(f"{cams}: no map has a mask of its name in {gt}, first {next(iter(scored))!r}")
    labels = classes if isinstance(classes, LabelMap) else None
    table = classes.table if isinstance(classes, LabelMap) else classes
    num_classes = table.num_classes if isinstance(table, ClassTable) else table
    curve = CamCurve(num_classes or IGNORE_INDEX, None if thresholds is None else torch.tensor(sorted(set(thresholds))))
    for done, name in enumerate(names, 1):
        own, maps = read_cams(scored[name], num_classes)
        mask = (
            labels.read(truth[name]).long() if labels else torch.from_numpy(read_mask(truth[name], num_classes, void))
        )
        if maps.shape[1:] != mask.shape:
            sizes = [" x ".join(map(str, shape)) for shape in (maps.shape[1:], mask.shape)]
            raise DataError(
                f"{scored[name]}: maps of {sizes[0]} pixels, {truth[name]} is {sizes[1]}; expected one size"
            )
        if len(own) and int(own.max()) >= curve.num_classes:
            raise DataError(f"{scored[name]}: a map of class {int(own.max())}, expected 1..{curve.num_classes - 1}")
        curve.update(maps, own, mask)
        if progress is not None:
            progress(done, len(names))
    if num_classes is None:
        used = (curve.counts.sum((0, 2)) + curve.counts.sum((1, 2))).nonzero()
        num_classes = max(int(used.max()) + 1, 2) if len(used) else 2
        curve.num_classes, curve.counts = num_classes, curve.counts[:num_classes, :num_classes]
    if not isinstance(table, ClassTable):
        table = ClassTable(tuple(str(i) for i in range(num_classes)), default_colours(num_classes))
    points = curve.compute()
    best = best_point(points)
    matrix = curve.confusions()[points.index(best)]
    return {
        **report(matrix, table),
        "threshold": best.threshold,
        "images": len(names),
        "curve": [{"threshold": p.threshold, "miou": p.scores.miou, "accuracy": p.scores.accuracy} for p in points],
        "without_gt": [name for name in scored if name not in truth],
        "without_cams": [name for name in truth if name not in scored],
    }


def plot_curve(figures: dict[str, Any], out: Path) -> None:
    """A picture of mIoU and pixel accuracy against the threshold, the best one marked.

    Args:
        figures: of :func:`score_cams`.
        out: the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes, rows = figure.add_subplot(), figures["curve"]
    for key, words, colour in (("miou", "mIoU", "#0b62a8"), ("accuracy", "pixel accuracy", "#8a8f98")):
        axes.plot([r["threshold"] for r in rows], [100 * (r[key] or 0) for r in rows], color=colour, label=words)
    if figures["miou"] is not None:
        best = 100 * figures["miou"]
        axes.plot([figures["threshold"]], [best], "o", color="#0b62a8")
        axes.annotate(
            f"{best:.1f} % at {figures['threshold']:.2f}",
            (figures["threshold"], best),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
        )
    axes.set_xlabel("background threshold")
    axes.set_ylabel("%")
    axes.set_ylim(bottom=0)
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    write_picture(out, lambda file: figure.savefig(file, dpi=150), "picture")
