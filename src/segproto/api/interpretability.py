"""The interpretability metrics of a run: its settings, its training images, and the file the figures are kept in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from segproto.data.base import SegmentationDataset
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.errors import ConfigError, DataError
from segproto.evaluation.interpretability.config import InterpretabilityConfig
from segproto.files.keys import explain_error
from segproto.runs.folder import evaluation_file, figures_file, keep
from segproto.training.recipe import apply_overrides

if TYPE_CHECKING:
    from segproto.model.segmenter import Segmenter
    from segproto.training.sharing import Share

SECTION = "interpretability."
PARTS = ("data.parts=", "data.part_maps=", "data.part_suffix=", "parts=", "part_maps=", "part_suffix=")


class Section(BaseModel):
    """The settings under the name a user types."""

    interpretability: InterpretabilityConfig = InterpretabilityConfig()


def interpretability_config(overrides: Sequence[str]) -> InterpretabilityConfig:
    """From ``interpretability.key=value`` settings; all others are left alone.

    Raises:
        ConfigError: an unknown key (the nearest is named) or a value out of range.
    """
    value = apply_overrides({}, [item for item in overrides if item.startswith(SECTION)], Section)
    try:
        return Section.model_validate(value).interpretability
    except ValidationError as error:
        lines = [explain_error(item, value, Section) for item in error.errors()]
        raise ConfigError(*dict.fromkeys(lines)) from None


def wanted(overrides: Sequence[str]) -> bool:
    """Whether the settings ask for the interpretability metrics: they name parts, or one of the metrics' settings."""
    return any(item.startswith((SECTION, "data.parts=", "parts=")) for item in overrides)


def data_overrides(overrides: Sequence[str]) -> list[str]:
    """The settings of the data."""
    return [item for item in overrides if not item.startswith(SECTION)]


def changes_data(overrides: Sequence[str]) -> bool:
    """Whether other images are asked for; part maps alone do not change them."""
    return any(not item.startswith((*PARTS, SECTION)) for item in overrides)


def interpret_model(
    model: Segmenter,
    target: Path,
    dataset: SegmentationDataset,
    data: DataConfig,
    config: InterpretabilityConfig,
    *,
    stage: str | None,
    keep_file: bool,
    share: Share,
) -> dict[str, Any]:
    """All figures; of a run's own data also kept in ``evaluation/<split>[-<stage>]-interpretability.json``, ``.png``.

    Args:
        model: on its device.
        target: the run or model folder it was loaded from.
        dataset: the images.
        data: their settings, from which the training images are found.
        config: what is measured.
        stage: of a run.
        keep_file: write the file.
        share: of the images that this process looks at.
    """
    from segproto.evaluation.interpretability.plots import draw
    from segproto.evaluation.interpretability.run import interpret
    from segproto.evaluation.interpretability.table import METRICS
    from segproto.training.progress import current

    needs_training_images = any(metric.sources for metric in METRICS.values() if config.wants(metric.name))
    try:
        sources = build_dataset(data, "train") if needs_training_images else None
    except DataError:
        sources = None  # the figures say so
    with current().bar("interpretability", 1) as bar:
        part: dict[str, Any] = {"rank": share.rank, "world": share.world}
        figures = interpret(model, dataset, config, sources=sources, progress=bar.part, gather=share.gather, **part)
    figures |= {"split": dataset.split, "stage": stage, "parts": None if data.parts is None else str(data.parts)}
    figures["trained_in"] = model.card.get("precision")
    plain = evaluation_file(target, dataset.split, stage) if keep_file else None
    if plain is None:
        return figures
    file = plain.with_name(f"{plain.stem}-interpretability.json")
    draw(figures["metrics"], file.with_suffix(".png"))
    return keep(figures, figures_file(None, file))
