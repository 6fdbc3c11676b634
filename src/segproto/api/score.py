"""Scores of folders: masks, or class activation maps, against ground truth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segproto.errors import DataError
from segproto.files import place, require
from segproto.runs.folder import figures_file, keep

if TYPE_CHECKING:
    from segproto.data.labels import LabelMap
    from segproto.data.layouts.finding import Finding

PathLike = str | Path


def score_masks(
    masks: PathLike,
    *,
    gt: PathLike,
    names: PathLike | None = None,
    classes: PathLike | None = None,
    void: int = 255,
    coarse: bool = False,
    masks_suffix: str = "",
    gt_suffix: str = "",
    values: Literal["indices", "classes"] = "indices",
    out: PathLike | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Scores a folder of masks, ours or not, against ground truth of the same file names.

    Args:
        masks: PNGs of class indices; 255 = no decision, counts as wrong.
        gt: ground truth; its values are those of ``classes``, or class indices. Also an export of an annotation tool
            with its images, whose masks are drawn (COCO, labelme, CVAT ...): a folder or a zip archive.
        names: a text file with the names to score, one per line.
        classes: a ``classes.yaml``; default: the one in ``gt``, if any.
        void: value in ``gt`` that does not count, where there is no ``classes.yaml``.
        coarse: allow Cityscapes' coarse labels as ``gt``.
        masks_suffix: end of the names of ``masks`` that does not belong to the name, as in ``_mask``.
        gt_suffix: the same of ``gt``.
        values: what the masks hold: class ``indices``, or as the ground truth the values of ``classes``.
        out: JSON file to write.
        quiet: no progress.
    """
    from segproto.evaluation.masks import score_masks as score
    from segproto.evaluation.truth import annotated_truth
    from segproto.training.progress import Reporter

    file, annotated = figures_file(out), annotated_truth(Path(gt))
    labels = truth_labels(gt, classes) if annotated is None else drawn_labels(gt, classes, annotated)
    list_file = None if names is None else Path(names)
    options: dict[str, Any] = {"classes": labels, "list_file": list_file, "void": void, "coarse": coarse}
    options |= {"suffixes": (masks_suffix, gt_suffix), "own_values": values == "classes", "annotated": annotated}
    with Reporter(active=not quiet).bar("score", 1) as bar:
        figures = score(Path(masks), Path(gt), progress=bar, **options)
    return keep(figures | {"command": sys.argv}, file)


def score_cams(
    cams: PathLike,
    *,
    gt: PathLike,
    names: PathLike | None = None,
    classes: PathLike | None = None,
    void: int = 255,
    curve: bool = False,
    out: PathLike | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Scores a folder of class activation maps at all background thresholds, in one pass.

    Args:
        cams: npz files of a pixelcontrast run (``stages/cams/maps``), or npy dicts as published code writes them.
        gt: ground truth of the same names; its values are those of ``classes``, or class indices, 0 = background.
        names: a text file with the names to score, one per line; default: all that have maps and a mask.
        classes: a ``classes.yaml``; default: the one in ``gt``, if any.
        void: value in ``gt`` that does not count, where there is no ``classes.yaml``.
        curve: also draw the curve, as a PNG beside ``out``.
        out: JSON file to write.
        quiet: no progress.
    """
    from segproto.evaluation.cams import plot_curve
    from segproto.evaluation.cams import score_cams as score
    from segproto.training.progress import Reporter

    file, picture = figures_file(out), place(out).with_suffix(".png") if curve and out is not None else None
    if picture is not None:
        require(picture, "picture")
    labels, list_file = truth_labels(gt, classes), None if names is None else Path(names)
    with Reporter(active=not quiet).bar("score", 1) as bar:
        figures = score(Path(cams), Path(gt), classes=labels, list_file=list_file, void=void, progress=bar)
    figures = keep(figures | {"command": sys.argv}, file)
    if picture is not None:
        plot_curve(figures, picture)
    return figures


def truth_labels(gt: PathLike, classes: PathLike | None) -> LabelMap | None:
    """What the values of a folder of masks mean: a given ``classes.yaml``, the one in the folder, or nothing."""
    from segproto.data.classes import find_classes, read_classes

    table = Path(gt) / "classes.yaml" if classes is None else find_classes(Path(classes), Path(gt))
    return read_classes(table).labels if classes is not None or table.is_file() else None


def drawn_labels(gt: PathLike, classes: PathLike | None, annotated: Finding) -> LabelMap:
    """What the labels of annotations mean: the classes that the scored masks were made with.

    Raises:
        DataError: no ``classes.yaml`` says so.
    """
    from segproto.data.classes import find_classes, read_classes, usual_classes

    if classes is None and not usual_classes(Path(gt)).is_file():
        raise DataError(
            f"{gt}: true masks are drawn from its annotations ({annotated.words}); say which label is which class: "
            "--classes FILE, the classes.yaml that the scored masks were made with (segproto data init "
            f"{gt} writes one)"
        )
    table = find_classes(None if classes is None else Path(classes), Path(gt))
    return read_classes(table, annotated.numbers).labels
