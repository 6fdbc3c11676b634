"""Checkpoints: what ``--resume`` needs, written whole or not at all, without pickles."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Optimizer

from segproto.errors import SegprotoError
from segproto.files import fill, fill_tensors, fresh_folder, in_own_folder, remove_folder, sums
from segproto.model import artefact
from segproto.model.segmenter import Segmenter
from segproto.training.ema import Ema

NAME = re.compile(r"\d{3}-\d{9}")
VERSION = 1
OLD_SPELLING = "optimiser"  # of checkpoints written by older versions, still resumed
HOLDS = (
    "state.json",
    sums.NAME,
    "optimizer.safetensors",
    f"{OLD_SPELLING}.safetensors",
    "ema.safetensors",
    *(f"model/{name}" for name in artefact.HOLDS),
)


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

    stage: int = 0
    step: int = 0
    best_miou: float | None = None
    best_accuracy: float | None = None
    stale: int = 0
    journal: int = 0
    seconds: float = 0.0
    stage_began: float = 0.0
    precision: dict[str, Any] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)


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
    for path in root.iterdir():
        if path != final and NAME.fullmatch(path.name):
            remove_folder(path, HOLDS)
    return final


def latest(root: Path) -> Path | None:
    """The newest checkpoint in a run's ``checkpoints`` folder; whatever has such a name is complete."""
    if not root.is_dir():
        return None
    return max((p for p in root.iterdir() if NAME.fullmatch(p.name) and (p / "state.json").exists()), default=None)


def read_state(path: Path) -> State:
    """Where the run was when it wrote this checkpoint.

    Raises:
        SegprotoError: one of its files is damaged, or it is of a newer version.
    """
    begin = f"bring it back from a copy, or begin a new run, with --start {path.parents[1]}/stages/STAGE if one is done"
    sums.check_sums(path, begin, SegprotoError)
    try:
        value = json.loads((path / "state.json").read_text())
        if value["version"] > VERSION:
            raise SegprotoError(f"{path}: written by a newer segproto (version {value['version']}); update segproto")
        return State(**value["state"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SegprotoError(f"{path}/state.json: damaged ({error}); start the run anew in another --out") from error


def restore(path: Path, optimizer: Optimizer, ema: Ema | None) -> None:
    """Puts a checkpoint's optimizer state and average back."""
    name = OLD_SPELLING if (path / f"{OLD_SPELLING}.safetensors").exists() else "optimizer"
    scalars = json.loads((path / "state.json").read_text())[name]
    unflatten(optimizer, load_file(path / f"{name}.safetensors"), scalars)
    if ema is not None:
        ema.load(load_file(path / "ema.safetensors"))


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


def unflatten(optimizer: Optimizer, tensors: dict[str, Tensor], scalars: dict[str, float]) -> None:
    """Inverse of :func:`flatten`; tensors get the memory layout of their parameter."""
    parameters = _parameters(optimizer)
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
