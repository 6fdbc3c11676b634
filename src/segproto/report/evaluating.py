"""``evaluate``: accuracy of a model, and on request its interpretability metrics."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segproto.data.build import build_dataset
from segproto.evaluation.validate import validate
from segproto.report.interpret import changes_data, data_overrides, interpret_model, wanted
from segproto.report.models import ready
from segproto.report.runs import evaluation_file, keep
from segproto.report.settings import data_config
from segproto.training.progress import Reporter


def evaluate(
    target: Path,
    *,
    stage: str | None,
    split: str,
    overrides: Sequence[str],
    data: Mapping[str, Any] | None,
    window: int | None,
    scales: Sequence[float],
    flip: bool,
    device: str | None,
    out: str | Path | None,
    interpretability: bool,
) -> dict[str, Any]:
    """See :func:`segproto.api.evaluate`."""
    model = ready(target, stage, device)
    config = data_config(target, data or {}, data_overrides(overrides))
    dataset = build_dataset(config, split)
    with Reporter().bar("evaluate", len(dataset)) as bar:
        seen: dict[str, Any] = {"window": window, "scales": tuple(scales), "flip": flip}
        figures = validate(model, dataset, input_size=config.input_size, progress=bar, **seen)
    figures |= {"command": sys.argv, "split": split, "stage": stage}
    own = not data and not changes_data(overrides)
    plain = own and window is None and tuple(scales) == (1.0,) and not flip
    if not (interpretability or wanted(overrides)):
        return keep(figures, out or (evaluation_file(target, split, stage) if plain else None))
    measured = interpret_model(model, target, dataset, config, overrides, stage=stage, keep_file=own)
    if out is not None:
        return keep(figures | {"interpretability": measured}, out)
    return keep(figures, evaluation_file(target, split, stage) if plain else None) | {"interpretability": measured}
