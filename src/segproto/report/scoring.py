"""``segproto evaluate``: a model on its data, or a folder of class activation maps against true masks."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.report.runs import keep

if TYPE_CHECKING:
    from segproto.data.labels import LabelMap


def evaluate(
    target: str | Path,
    *,
    stage: str | None = None,
    split: str = "val",
    overrides: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    window: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crf: str | None = None,
    save: str | Path | None = None,
    test: str | Path | None = None,
    names: str | Path | None = None,
    device: str | None = None,
    out: str | Path | None = None,
    interpretability: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Accuracy at the labels' own size, without augmentation; on request also the interpretability metrics.

    Args:
        target: a run or model folder; without ``data`` and overrides the run's own data are used.
        stage: of a run: evaluate the model this stage left.
        split: ``train`` or ``val``.
        overrides: ``data.key=value`` and ``interpretability.key=value`` settings.
        data: the same as a mapping.
        window: side of a sliding window in pixels; bounds memory.
        scales: input scales averaged.
        flip: average with the mirrored image.
        crf: also score the masks after a dense CRF of this published set, ``A`` .. ``E``; images are then seen whole.
        save: folder for the masks, in ``<split>`` and, after a CRF, ``<split>-crf``.
        test: images without labels whose masks are written too, seen the same way, to ``test`` and ``test-crf``.
        names: a text file with the names of ``test`` to take, one a line.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None = cuda if there is one.
        out: JSON file. Default, for a run's last model or a ``stage`` of it, on its own data and without window,
            scales, flip and CRF: ``RUN/evaluation/<split>[-<stage>].json``; in all other cases none.
        interpretability: measure it, too (implied by ``data.parts`` among the settings), and keep the figures of a
            run's own data in ``RUN/evaluation/<split>[-<stage>]-interpretability.json``.
        quiet: no progress.

    Returns:
        ``miou``, ``accuracy``, ``per_class``, ``confusion``, ``images``, ``seconds``, ``command``, ``file`` and, if
        asked for, ``crf`` (the figures after it), ``test_images`` (how many) and ``interpretability``.
    """
    from segproto.report.evaluating import evaluate as run
    from segproto.training.progress import Reporter, reporting

    options: dict[str, Any] = {"window": window, "scales": scales, "flip": flip, "device": device, "out": out}
    options |= {"crf": crf, "save": save, "test": test, "names": names}
    chosen: dict[str, Any] = {"stage": stage, "split": split, "overrides": overrides, "data": data}
    with reporting(Reporter(active=not quiet)):
        return run(Path(target), interpretability=interpretability, **chosen, **options)


def score_cams(
    cams: str | Path,
    *,
    gt: str | Path,
    names: str | Path | None = None,
    classes: str | Path | None = None,
    void: int = 255,
    curve: bool = False,
    out: str | Path | None = None,
    quiet: bool = False,
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
        quiet: no progress.
    """
    from segproto.evaluation.cams import plot_curve
    from segproto.evaluation.cams import score_cams as score
    from segproto.training.progress import Reporter

    labels, list_file = truth_labels(gt, classes), None if names is None else Path(names)
    with Reporter(active=not quiet).bar("score", 1) as bar:
        figures = score(Path(cams), Path(gt), classes=labels, list_file=list_file, void=void, progress=bar)
    figures = keep(figures | {"command": sys.argv}, out)
    if curve and out is not None:
        plot_curve(figures, Path(out).with_suffix(".png"))
    return figures


def truth_labels(gt: str | Path, classes: str | Path | None) -> LabelMap | None:
    """What the values of a folder of masks mean: a given ``classes.yaml``, the one in the folder, or nothing."""
    from segproto.data.classes import find_classes, read_classes

    table = Path(gt) / "classes.yaml" if classes is None else find_classes(Path(classes), Path(gt))
    return read_classes(table).labels if classes is not None or table.is_file() else None
