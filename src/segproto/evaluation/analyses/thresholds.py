"""One grouped model scored at many thresholds of its group weights in one pass (Porta et al. 2025, table 7)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from segproto.errors import ConfigError
from segproto.evaluation.rescore import EncoderFeatures, Progress, rescore
from segproto.files import write_picture
from segproto.model.heads import Head, read_out

THRESHOLDS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3)
DRAWN = {"miou": ("mIoU, %", 100), "prototypes_used": ("prototypes used", 1), "group_average": ("members per group", 1)}


def sweep_thresholds(
    features: EncoderFeatures, thresholds: Sequence[float] = THRESHOLDS, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Scores a grouped model with its weights below each threshold set to 0, not renormalised.

    Args:
        features: of the model, on the images to score.
        thresholds: in 0..1; 0 = the weights as they are.
        progress: called with (images done, images).

    Returns:
        One row per threshold, ascending: ``tau``, ``prototypes``, ``prototypes_used``, ``group_average``, ``miou``,
        ``accuracy``.

    Raises:
        ConfigError: a model without groups, or a threshold outside 0..1.
    """
    head = features.model.head
    if head.grouping is None or head.unit_weights() is None:
        raise ConfigError(f"a {head.kind} head has no groups whose weights could be cut off; expected a grouped model")
    wrong = [tau for tau in thresholds if not 0 <= tau <= 1]
    if wrong or not thresholds:
        raise ConfigError(f"threshold {wrong[0] if wrong else 'list is empty'}: expected one or more in 0..1")
    heads = [thresholded(head, tau) for tau in sorted(set(thresholds))]

    def answers(features: Tensor) -> list[Tensor]:
        activations = head.activations(head.cell_features(features))
        return [answer(copy_of_head, activations) for copy_of_head in heads]

    scores = rescore(features, answers, len(heads), progress)
    return [
        {"tau": tau, **copy_of_head.figures(), "miou": score["miou"], "accuracy": score["accuracy"]}
        for tau, copy_of_head, score in zip(sorted(set(thresholds)), heads, scores, strict=True)
    ]


def thresholded(head: Head, tau: float) -> Head:
    """A copy whose weights of groups below ``tau`` are 0."""
    out = copy.deepcopy(head)
    assert out.grouping is not None
    out.grouping.threshold_(tau)
    return out


def answer(head: Head, activations: Tensor) -> Tensor:
    """Grid logits by a readout of groups; the activations are those of all copies."""
    weights = head.unit_weights()
    assert head.grouping is not None
    assert weights is not None
    return read_out(head.grouping(activations), weights)


def plot_thresholds(rows: Sequence[dict[str, Any]], out: Path, kind: str | None = "picture") -> None:
    """A picture of mIoU and prototypes used against the threshold."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    taus = [row["tau"] for row in rows]
    for panel, (key, (words, factor)) in enumerate(DRAWN.items()):
        axes = figure.add_subplot(1, 3, panel + 1)
        axes.plot(taus, [factor * row[key] for row in rows], "o-", color="#0b62a8", markersize=4)
        axes.set_xlabel("threshold")
        axes.set_title(words, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        if factor == 1:
            axes.set_ylim(bottom=0)
    write_picture(out, lambda file: figure.savefig(file, dpi=150), kind)
