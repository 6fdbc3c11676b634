"""Paths in settings: ``~`` and variables filled in, and when a relative one is left as it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, PlainSerializer


def expand_path(path: Path) -> Path:
    """``~`` and ``$VARIABLES`` filled in, made absolute; a path with an unset variable is left as it was written."""
    text = os.path.expandvars(os.path.expanduser(path))
    return path if "$" in text else Path(os.path.abspath(text))


def _expand_file(path: Path) -> Path:
    """As ``expand_path``, except for a bare word (the name of a shipped table)."""
    return expand_path(path) if path.suffix else path


def _expand_list(path: Path) -> Path:
    """``~`` and ``$VARIABLES`` filled in; relative paths stay: they are looked for in several places."""
    return Path(os.path.expandvars(os.path.expanduser(path)))


ExpandedPath = Annotated[Path, AfterValidator(expand_path)]
# Written to a run's recipe as text, which is left alone there: a relative path is not meant from the working directory.
ClassesPath = Annotated[Path, AfterValidator(_expand_file), PlainSerializer(str)]
ListPath = Annotated[Path, AfterValidator(_expand_list), PlainSerializer(str)]
