"""A run's folder: taken once, continued with ``--resume``."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import Field

from segproto.errors import ConfigError, SegprotoError
from segproto.files import LOCK, fresh, hold, sync_file, take_back, write_json
from segproto.files.documents import Record, checked, read_json
from segproto.training import checkpoint
from segproto.training.figures import Figures, FiguresRecord
from segproto.training.recipe import Recipe, dump_recipe, resolved, validate_recipe
from segproto.training.recipe_files import load_recipe_dict

OWN = ("recipe.yaml", "data.json", "metrics.jsonl", "checkpoints", "stages", "model")
FINISHED = "checkpoints/finished.json"
ALSO = ("masks", "evaluation", "then", "cache")  # of some runs, or written later
# What may differ on --resume: it changes where and how visibly a run goes on, not what comes out of it.
FREE = ("data.root", "data.workers", "train.checkpoint_every", "train.log_every", "train.loggers", "train.accelerator")


def refuse_taken(out: Path) -> None:
    """Sees that ``out`` is free for a new run.

    Raises:
        SegprotoError: another run is there.
    """
    existing = [name for name in (*OWN, *ALSO) if (out / name).exists()]
    if existing:
        raise SegprotoError(
            f"{out}: holds another run ({', '.join(existing)}); continue that one with "
            f"`segproto train --resume {out}`, or give another --out"
        )


def take_folder(out: Path, recipe: Recipe, note: str = "") -> None:
    """Makes the folder of a new run and writes ``recipe.yaml``, under a line that says what was chosen for it."""
    with fresh(out / "recipe.yaml", "recipe") as file:
        file.write(((f"# {note}\n" if note else "") + dump_recipe(recipe)).encode())


def release_folder(out: Path) -> None:
    """Gives the folder of a run that was refused before it did anything back, so that the corrected command works."""
    take_back(out, ("data.json", "recipe.yaml"), beside=(LOCK,))


def check_resumable(out: Path, recipe: Recipe) -> None:
    """Sees that ``out`` holds a run of this very recipe.

    Raises:
        SegprotoError: no run there.
        ConfigError: naming the first setting that differs.
    """
    path = out / "recipe.yaml"
    if not path.exists():
        raise SegprotoError(f"{out}: no run to resume (no recipe.yaml); start one without --resume")
    # validated: a setting that came after the run began is at its default in it
    stored, asked = _flat(resolved(validate_recipe(load_recipe_dict(path), type(recipe)))), _flat(resolved(recipe))
    for key in sorted(stored.keys() | asked.keys()):
        if key not in FREE and stored.get(key) != asked.get(key):
            raise ConfigError(
                f"{key} = {asked.get(key)!r}: the run in {out} has {stored.get(key)!r}; --resume continues a run as it "
                "was. To begin a new run from its weights, use train.start"
            )


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    """Nested mappings as dotted keys; tuples as lists."""
    if not (isinstance(value, dict) and value):
        return {prefix: json.loads(json.dumps(value))}
    flat: dict[str, object] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}.{key}" if prefix else key)
    return flat


class FinishedRecord(Record):
    """``checkpoints/finished.json``."""

    stages: dict[str, FiguresRecord] = Field(min_length=1)
    seconds: float


@dataclass(frozen=True)
class Finished:
    """What a run noted at its end.

    Attributes:
        stages: figures of every stage by name, in order.
        seconds: time spent, interruptions not counted.
    """

    stages: dict[str, Figures]
    seconds: float


def finished(out: Path) -> Finished | None:
    """What the run in ``out`` noted at its end; None before."""
    path = out / FINISHED
    if not path.exists():
        return None
    value = read_json(path, SegprotoError)
    checked(value, FinishedRecord, path, SegprotoError, "bring it back from a copy; the model is in model/ as before")
    return Finished(value["stages"], value["seconds"])


def note_finished(out: Path, results: dict[str, Figures], seconds: float) -> None:
    """Marks the run as finished and removes its last checkpoint, which is ``model`` once more."""
    write_json(out / FINISHED, asdict(Finished(results, round(seconds, 3))), None)
    sync_file(out / "checkpoints")
    checkpoint.clear(out / "checkpoints")


def tidy(out: Path) -> None:
    """Removes what a run that was killed after its end, while it cleared up, had left to remove."""
    if (out / LOCK).exists() or checkpoint.left(out / "checkpoints"):
        with suppress(SegprotoError), hold(out):  # if another process is at work there, it clears up itself
            checkpoint.clear(out / "checkpoints")
