"""Checkpoints: what ``--resume`` needs, written whole or not at all, without pickles."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from pydantic import AliasChoices, BaseModel, Field
from torch import Tensor
from torch.optim import Optimizer

from segproto.errors import SegprotoError
from segproto.files import fill, fill_tensors, fresh_folder, in_own_folder, remove_folder, sums
from segproto.files.documents import checked, read_json
from segproto.files.keys import shown
from segproto.model import artefact
from segproto.model.segmenter import Segmenter
from segproto.training.ema import Ema
from segproto.training.stage import Optimise, Stage

NAME = re.compile(r"\d{3}-\d{9}")
VERSION = 1
ADAM = ("step", "exp_avg", "exp_avg_sq")
KEPT = {"SGD": ("momentum_buffer",), "Adam": ADAM, "AdamW": ADAM}  # what an optimizer keeps of a parameter
OLD_SPELLING = "optimiser"  # of checkpoints written by older versions, still resumed
HOLDS = (
    "state.json",
    sums.NAME,
    "optimizer.safetensors",
    f"{OLD_SPELLING}.safetensors",
    "ema.safetensors",
    *(f"model/{name}" for name in artefact.HOLDS),
)


Count = Annotated[int, Field(ge=0, lt=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]


@dataclass
class State:
    """Where a run is.

    Attributes:
        stage: index of the stage in progress.
        step: batches it has seen; at 0 the stage has not begun.
        best_miou: best validation mIoU of the stage that keeps a best model.
        best_accuracy: best validation pixel accuracy of this stage.
        stale: validations since then.
        journal: length of ``metrics.jsonl`` in bytes.
        seconds: time spent so far.
        stage_began: ``seconds`` when this stage began.
        precision: state of the gradient scaler (16-mixed), else empty.
        terms: the loss of this stage and its terms, as last logged.
    """

    stage: Count = 0
    step: Count = 0
    best_miou: Share | None = None
    best_accuracy: Share | None = None
    stale: Count = 0
    journal: Count = 0
    seconds: Seconds = 0.0
    stage_began: Seconds = 0.0
    precision: dict[str, int | float] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)


class Written(BaseModel):
    """``state.json``.

    Attributes:
        version: of its form.
        state: where the run was.
        optimizer: what of the optimizer's state is no tensor, see :func:`flatten`.
    """

    version: Annotated[int, Field(ge=1)]
    state: State
    optimizer: dict[str, bool | int | float | None] = Field(validation_alias=AliasChoices("optimizer", OLD_SPELLING))


def save(
    root: Path, state: State, segmenter: Segmenter, optimizer: Optimizer | None = None, ema: Ema | None = None
) -> Path:
    """Writes a checkpoint beside the previous one and only then removes that.

    Raises:
        SegprotoError: the disk is full; the previous checkpoint is intact.
    """
    final = root / f"{state.stage:03d}-{state.step:09d}"
    previous = latest(root)
    intact = f"the checkpoint {previous.name} is intact" if previous else "nothing was there before"
    advice = f"{intact}: free some space and continue with `segproto train --resume {root.parent}`"
    if not final.exists():
        with fresh_folder(final, HOLDS, in_own_folder, advice) as fresh:
            (fresh / "model").mkdir()
            artefact.write_files(segmenter, fresh / "model")
            tensors, scalars = flatten(optimizer) if optimizer is not None else ({}, {})
            fill_tensors(fresh / "optimizer.safetensors", tensors)
            if ema is not None:
                fill_tensors(fresh / "ema.safetensors", ema.average)
            value = {"version": VERSION, "state": asdict(state), "optimizer": scalars}
            fill(fresh / "state.json", json.dumps(value, indent=1))
            sums.write_sums(fresh)
    clear(root, final)
    return final


def clear(root: Path, kept: Path | None = None) -> None:
    """Removes all checkpoints in a run's ``checkpoints`` folder but one."""
    for path in left(root):
        if path != kept:
            remove_folder(path, HOLDS)


def left(root: Path) -> list[Path]:
    """All checkpoints there, also what a killed process left of one that it was removing."""
    return [path for path in root.iterdir() if NAME.fullmatch(path.name)] if root.is_dir() else []


def latest(root: Path) -> Path | None:
    """The newest checkpoint in a run's ``checkpoints`` folder; whatever has such a name is complete."""
    return max((path for path in left(root) if (path / "state.json").exists()), default=None)


def read_state(path: Path, stages: Sequence[Stage]) -> State:
    """Where the run was when it wrote this checkpoint.

    Args:
        path: the checkpoint's folder.
        stages: of the run.

    Raises:
        SegprotoError: one of its files is damaged, it is of a newer version, or names a place that the run lacks.
    """
    sums.check_sums(path, mending(path), SegprotoError)
    state = read_written(path).state
    steps = [stage.steps if isinstance(stage, Optimise) else 0 for stage in stages] + [0]  # the last: all are done
    if state.stage >= len(steps) or state.step > steps[state.stage]:
        where = f"state.stage = {state.stage}, state.step = {state.step}"
        raise SegprotoError(f"{path / 'state.json'}: {where}: the run has no such place; {mending(path)}")
    return state


def read_written(path: Path) -> Written:
    """What ``state.json`` of a checkpoint says.

    Raises:
        SegprotoError: it is damaged, or of a newer version.
    """
    file = path / "state.json"
    value = read_json(file, SegprotoError, mending(path))
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise SegprotoError(f"{path}: written by a newer segproto (version {version}); update segproto")
    return checked(value, Written, file, SegprotoError, mending(path))


def mending(path: Path) -> str:
    """What to do about a damaged checkpoint."""
    return f"bring it back from a copy, or begin a new run, with --start {path.parents[1]}/stages/STAGE if one is done"


def restore(path: Path, optimizer: Optimizer, ema: Ema | None) -> None:
    """Puts a checkpoint's optimizer state and average back.

    Raises:
        SegprotoError: one of its files is damaged, or of another optimizer or model.
    """
    name = OLD_SPELLING if (path / f"{OLD_SPELLING}.safetensors").exists() else "optimizer"
    file = path / f"{name}.safetensors"
    try:
        unflatten(optimizer, artefact.read_tensors(file), read_written(path).optimizer)
    except ValueError as error:
        raise SegprotoError(f"{file}: {error}; {mending(path)}") from None
    if ema is not None:
        average = artefact.read_tensors(path / "ema.safetensors")
        artefact.check_keys(path / "ema.safetensors", {k: tuple(v.shape) for k, v in ema.average.items()}, average)
        if wrong := [key for key, value in average.items() if not value.is_floating_point()]:
            raise SegprotoError(f"{path / 'ema.safetensors'}: {wrong[0]} has no real numbers; {mending(path)}")
        ema.load(average)


def flatten(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, float]]:
    """An optimizer's state as named tensors and plain values, keyed ``<parameter index>.<name>``."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, float] = {}
    for index, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.detach().contiguous()
            else:
                scalars[f"{index}.{name}"] = value
    return tensors, scalars


def unflatten(optimizer: Optimizer, tensors: dict[str, Tensor], scalars: Mapping[str, float | None]) -> None:
    """Inverse of :func:`flatten`; tensors get the memory layout of their parameter.

    Raises:
        ValueError: a name, a shape or a number of entries that this optimizer cannot have.
    """
    parameters, known = _parameters(optimizer), KEPT[type(optimizer).__name__]
    names_of: dict[int, set[str]] = {}
    for key, value in {**tensors, **scalars}.items():
        index, _, name = key.partition(".")
        if name not in known or not index.isdecimal() or int(index) >= len(parameters):
            last = f"a number from 0 to {len(parameters) - 1}"
            raise ValueError(f"entry {shown(key)}: expected {last}, a point, and one of {', '.join(known)}")
        parameter = parameters[int(index)]
        shape = torch.Size() if name == "step" else parameter.shape
        kept = value if isinstance(value, Tensor) else torch.tensor(value or 0.0)
        if kept.shape != shape or not kept.is_floating_point() or not bool(kept.isfinite().all()):
            found_here = f"{kept.dtype} of shape {tuple(kept.shape)}"
            raise ValueError(f"{key} is {found_here}; expected finite floating-point numbers of shape {tuple(shape)}")
        names_of.setdefault(int(index), set()).add(name)
    for number, names in names_of.items():
        if missing := [name for name in known if name not in names]:
            raise ValueError(f"{number}.{missing[0]} is missing")
    for key, value in {**tensors, **scalars}.items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)  # noqa: PLW2901
        elif isinstance(value, Tensor):
            value = value.clone()  # noqa: PLW2901 - a counter, kept on the CPU
        optimizer.state[parameter][name] = value


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
