"""``metrics.jsonl`` and the loggers that repeat it elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, Protocol

from segproto.errors import ConfigError
from segproto.files import disk_errors
from segproto.training.figures import Logged
from segproto.training.recipe_files import RecipeDict


class Logger(Protocol):
    """Something that takes numbers by name."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Takes the numbers of one line; ``step`` counts the batches of all stages."""

    def close(self) -> None:
        """Writes what is left."""


class Journal:
    """A file of one JSON object per line.

    Args:
        path: the file; appended to.
        loggers: also receive every line's numbers.
        active: False in all processes but the first: nothing is written.
    """

    def __init__(self, path: Path, loggers: list[Logger], active: bool = True) -> None:
        self.path, self.loggers, self.active = path, loggers, active

    def truncate(self, length: int) -> None:
        """Drops what was written after a checkpoint, whose batches a resumed run sees again."""
        if self.active and self.path.exists() and self.path.stat().st_size > length:
            os.truncate(self.path, length)

    def write(self, stage: str, step: int, total: int, values: Logged) -> None:
        """Adds a line.

        Args:
            stage: the stage's name.
            step: batches the stage has seen.
            total: batches all stages have seen.
            values: numbers, or lists of numbers, by name; lists stay in the file.
        """
        if not self.active:
            return
        line = {"time": round(time.time(), 3), "stage": stage, "step": step, **values}
        with disk_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        for logger in self.loggers:
            logger.log(numbers, total)

    def sync(self) -> int:
        """Returns the file's length once all of it is on the disk."""
        if not (self.active and self.path.exists()):
            return 0
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def close(self) -> None:
        for logger in self.loggers:
            logger.close()


def build_loggers(names: list[Any], out: Path, recipe: RecipeDict, done: int) -> list[Logger]:
    """The loggers of ``train.loggers``.

    Args:
        names: ``tensorboard``, ``wandb``.
        out: the run.
        recipe: the resolved recipe.
        done: batches a resumed run has seen; what was logged after them is replaced.

    Raises:
        ConfigError: the package is not installed.
    """
    loggers: list[Logger] = []
    for name in names:
        try:
            loggers.append(_TensorBoard(out, done) if name == "tensorboard" else _Wandb(out, recipe))
        except ImportError as error:
            hint = f'pip install "segproto[{name}]"'
            raise ConfigError(f"train.loggers: {name} is not installed ({error}); {hint}") from error
    return loggers


class _TensorBoard:
    def __init__(self, out: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(out / "tensorboard"), purge_step=done or None)

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    def __init__(self, out: Path, recipe: RecipeDict) -> None:
        import wandb

        run_id = hashlib.blake2b(str(out.absolute()).encode(), digest_size=8).hexdigest()
        self.run: Any = wandb.init(
            project="segproto", name=out.name, id=run_id, dir=str(out), config=recipe, resume="allow"
        )

    def log(self, values: dict[str, float], step: int) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        self.run.finish()
