"""Reading a run folder: its recipe, figures, stages and model."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.data.below import images_below, without_masks
from segproto.errors import DataError, WeightsError
from segproto.files import place, require, write_json
from segproto.files.reading import read_text

if TYPE_CHECKING:
    from pydantic import BaseModel


def run_of(target: Path) -> Path | None:
    """The run folder that ``target`` is, or lies in; None for a model on its own."""
    for folder in (target, *target.absolute().parents[:3]):
        if (folder / "recipe.yaml").is_file():
            return folder
    return None


def model_folder(target: Path, stage: str | None = None) -> Path:
    """The model of a run's stage, or ``target`` itself without one.

    Raises:
        WeightsError: the run has no such stage; those it has are named.
    """
    if stage is None:
        return target
    folder = target / "stages" / stage / "model"
    if not folder.is_dir():
        stages = sorted(p.parent.name for p in target.glob("stages/*/model"))
        raise WeightsError(f"{target}: stage {stage!r} left no model; stages with one: {', '.join(stages) or 'none'}")
    return folder


def images_and_masks(images: Path, out: Path, tell: Callable[[str], None]) -> list[tuple[Path, Path]]:
    """Every image with the mask file to write for it, in the same subfolder of ``out``.

    Args:
        images: a file or a folder; see :func:`images_below` and :func:`without_masks`.
        out: folder of the masks.
        tell: is told what was left out.

    Raises:
        DataError: no image there, or two that would share a mask.
    """
    files = images_below(images, tell)
    base = images if images.is_dir() else images.parent
    if images.is_dir():
        files = without_masks(files, base, tell)
    masks = [out / file.relative_to(base).with_suffix(".png") for file in files]
    if len(set(masks)) < len(masks):
        raise DataError(f"{images}: two images differ only in their suffix and would share one mask; rename one")
    return list(zip(files, masks, strict=True))


def evaluation_file(target: Path, split: str, stage: str | None) -> Path | None:
    """Where the figures of a run's last model (or of a stage's) are kept; None for any other model folder."""
    run = run_of(target)
    last = run is not None and target.absolute() in (run.absolute(), (run / "model").absolute())
    return None if run is None or not last else run / "evaluation" / f"{split}{'-' + stage if stage else ''}.json"


def figures_file(out: str | Path | None, default: Path | None = None) -> tuple[Path, str | None] | None:
    """The file that figures go to, with the mark it bears there: where the user says, else where a run keeps them.

    Raises:
        ConfigError: something that is not ours is there; better known before the work than after it.
    """
    if out is None and default is None:
        return None
    file, kind = (place(out), "figures") if out is not None else (default or Path(), None)
    require(file, kind)
    return file, kind


def keep(figures: dict[str, Any], file: tuple[Path, str | None] | None) -> dict[str, Any]:
    """The figures; with a file (:func:`figures_file`) they are written to it, too, and its name is among them."""
    if file is None:
        return figures
    path, kind = file
    with_file = figures | {"file": str(path)}
    write_json(path, with_file, kind, str)
    return with_file


class Run:
    """A run folder.

    Args:
        path: the folder.

    Raises:
        DataError: it holds no ``recipe.yaml``.
    """

    def __init__(self, path: Path) -> None:
        if not (path / "recipe.yaml").is_file():
            raise DataError(f"{path}: no run there (no recipe.yaml); expected the --out folder of segproto train")
        self.path = path

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe."""
        from segproto.files import documents
        from segproto.files.yaml_text import read_yaml
        from segproto.runs.records import Settings

        value = read_yaml(self.path / "recipe.yaml")
        if not isinstance(value, dict):
            raise DataError(f"{self.path}/recipe.yaml: expected sections (method, data, encoder, train ...)")
        documents.checked(value, Settings, self.path / "recipe.yaml")
        return value

    @property
    def method(self) -> str:
        return str(self.recipe["method"])

    @cached_property
    def model(self) -> dict[str, Any]:
        """``model.json``; empty before the run is complete."""
        return read_json(self.path / "model" / "model.json") or {}

    @cached_property
    def stages(self) -> list[dict[str, Any]]:
        """The results that procedures and optimising stages left, in the order they ended (also in a copied run)."""
        from segproto.runs.records import Finished
        from segproto.training.figures import FiguresRecord

        finished = read_json(self.path / "checkpoints" / "finished.json", Finished) or {}
        numbers = {name: number for number, name in enumerate(finished.get("stages", {}))}

        def order(file: Path) -> tuple[int, int, Path]:
            return numbers.get(file.parent.name, len(numbers)), file.stat().st_mtime_ns, file

        files = sorted(self.path.glob("stages/*/result.json"), key=order)
        return [{"stage": file.parent.name, **(read_json(file, FiguresRecord) or {})} for file in files]

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; a last line cut off by a crash is left out.

        Raises:
            DataError: another line is damaged; it is named.
        """
        from segproto.files import documents
        from segproto.runs.records import Line

        file = self.path / "metrics.jsonl"
        lines = read_text(file).splitlines() if os.path.lexists(file) else []
        rows = []
        for number, line in enumerate(lines, 1):
            source = f"{file}, line {number}"
            try:
                value = documents.parse_json(line, source)
            except DataError:
                if number == len(lines):
                    break
                raise
            documents.checked(value, Line, source)
            rows.append(value)
        return rows

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """The validation figures of the last model: what ``evaluate`` wrote, else the last stage's; or empty."""
        from segproto.training.figures import FiguresRecord

        written = read_json(self.path / "evaluation" / "val.json", FiguresRecord)
        if written:
            return written
        scored = [stage for stage in self.stages if stage.get("miou") is not None]
        return scored[-1] if scored else {}

    @property
    def absent(self) -> str:
        """What the mIoU leaves out, in words, see :func:`segproto.evaluation.absent.absent_words`."""
        from segproto.evaluation.absent import absent_words

        return absent_words(self.evaluation.get("per_class", ()))

    @property
    def seconds(self) -> float | None:
        """Time the run took, interruptions not counted; None before its end."""
        from segproto.runs.records import Finished

        finished = read_json(self.path / "checkpoints" / "finished.json", Finished) or {}
        return finished.get("seconds")

    def figures(self) -> dict[str, Any]:
        """mIoU, accuracy and prototype counts of the last model, None where there is none."""
        counts: dict[str, Any] = {}
        for stage in self.stages:
            counts |= {key: stage[key] for key in ("prototypes", "prototypes_used", "group_average") if key in stage}
        return {
            "miou": self.evaluation.get("miou"),
            "accuracy": self.evaluation.get("accuracy"),
            "prototypes": counts.get("prototypes"),
            "prototypes_used": counts.get("prototypes_used", counts.get("prototypes")),
            "group_average": counts.get("group_average"),
        }

    def made(self) -> list[dict[str, Any]]:
        """The mIoU of what the run made of the training images, where they have masks: ``words`` and ``miou``."""
        words = {
            "cam_miou": "mIoU of the activation maps of the training images, best cut",
            "mask_miou": "mIoU of the masks made of the training images",
        }
        return [{"words": words[key], "miou": stage[key]} for stage in self.stages for key in words if key in stage]


def read_json(path: Path, schema: type[BaseModel] | None = None) -> dict[str, Any] | None:
    """A JSON object as it is written, None if the file is not there.

    Args:
        path: the file.
        schema: what is expected of it; None = any object.

    Raises:
        DataError: the file is no JSON, or other than the schema says; the key is named.
    """
    from segproto.files import documents

    if not os.path.lexists(path):
        return None
    value = documents.read_json(path)
    documents.checked(value, schema or documents.Record, path, advice="write it again by running its command")
    content: dict[str, Any] = value
    return content
