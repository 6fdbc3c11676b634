"""Every failure of a reader as one line that names the file."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError
from typing import Any

from segproto.errors import WeightsError
from segproto.foreign.records import Refusal

# What damaged bytes can raise in the standard library's parsers, numpy's and torch's.
DAMAGE = (
    Refusal, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError, MemoryError,
    RecursionError, RuntimeError, NotImplementedError, struct.error, zipfile.BadZipFile, SyntaxError, TokenError,
)  # fmt: skip


def guarded(path: Path, reader: Callable[[Path], Any]) -> Any:
    """``reader(path)``.

    Raises:
        WeightsError: whatever went wrong.
    """
    try:
        return reader(path)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    except DAMAGE as error:
        lines = str(error).splitlines()
        reason = lines[0][:200] if lines else type(error).__name__
        raise WeightsError(f"{path}: not read: {reason}") from error
