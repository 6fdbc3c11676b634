"""How the images of a folder are divided into ``train`` and ``val``."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segproto.data.paths import ListPath
from segproto.errors import DataError

PATIENCE = 20.0  # seconds that a regular expression may take; a sane one needs one for a million names
LONGEST = 1000  # characters of one
COUNTED = 10_000  # repeats that its counts ({3}, {1,20}) may multiply to: they are unrolled in memory


class SplitConfig(BaseModel):
    """How images are divided into ``train`` and ``val``; give one of the rules.

    Used by ``data.split`` and by the ``split:`` section of a ``classes.yaml``. Without any rule: folders ``train`` and
    ``val`` under the images if there are such, else ``train.txt`` and ``val.txt`` in the root, else
    ``val_fraction: 0.2``.

    Attributes:
        train_folder: subfolder of ``images`` (and of ``labels``) with the training images; goes with ``val_folder``.
        val_folder: the same for validation.
        train_list: text file with one image name a line (or image and mask file, as VOC's); with only one list, the
            other split is all the rest.
        val_list: the same for validation.
        val_pattern: regular expression; images whose name it finds (``re.search``) are validation, the others training.
        val_fraction: share of images drawn at random for validation, fixed by ``seed``.
        seed: of the random split.
    """

    model_config = ConfigDict(extra="forbid")

    train_folder: str | None = None
    val_folder: str | None = None
    train_list: ListPath | None = None
    val_list: ListPath | None = None
    val_pattern: str | None = Field(default=None, max_length=LONGEST)
    val_fraction: float | None = Field(default=None, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)

    @property
    def has_rule(self) -> bool:
        """Whether any rule is given."""
        return bool(self.model_dump(exclude_none=True, exclude={"seed"}))

    @model_validator(mode="after")
    def _one_rule(self) -> SplitConfig:
        by_folder = self.train_folder is not None or self.val_folder is not None
        by_list = self.train_list is not None or self.val_list is not None
        rules = [by_folder, by_list, self.val_pattern is not None, self.val_fraction is not None]
        if sum(rules) > 1:
            raise ValueError("a split has one rule: folders, lists, val_pattern or val_fraction, not several")
        if by_folder and (self.train_folder is None or self.val_folder is None):
            raise ValueError("a split by folder needs both train_folder and val_folder")
        if self.val_pattern is not None:
            try:
                re.compile(self.val_pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"val_pattern {self.val_pattern!r} is not a regular expression: {error}") from None
            counts = [int(number) or 1 for number in re.findall(r"(\d+)\}", self.val_pattern)]
            if math.prod(counts) > COUNTED:
                raise ValueError(f"val_pattern {self.val_pattern!r}: its counts multiply to more than {COUNTED}")
        return self


def found_in(pattern: str, names: Sequence[str], limit: float = PATIENCE) -> list[bool]:
    """Whether a regular expression finds each name (as ``re.search``), within a time: some would take years.

    Args:
        pattern: which may be a stranger's.
        names: to look at.
        limit: seconds for all of them.

    Raises:
        DataError: time is up.
    """
    import regex  # re's syntax, and knows a time limit

    try:
        program, end = regex.compile(pattern), time.monotonic() + limit
        return [program.search(name, timeout=max(end - time.monotonic(), 1e-3)) is not None for name in names]
    except TimeoutError:
        raise DataError(
            f"val_pattern {pattern!r}: takes more than {limit:g} s on {len(names)} names; write a simpler one, without "
            "repeats inside repeats"
        ) from None
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise DataError(f"val_pattern {pattern!r}: is not a regular expression ({error})") from None
