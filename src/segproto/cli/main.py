"""``segproto``: the application and how it fails."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from segproto.cli.app import app
from segproto.errors import ConfigError, SegprotoError

MEMORY_HINT = "lower train.batch_size or data.augment.crop, or pass --window to predict and evaluate"


def main() -> None:
    """Runs the command line. Errors for people become one line on stderr and exit code 2.

    ``SEGPROTO_DEBUG=1`` shows the traceback instead.
    """
    try:
        refuse_empty(sys.argv[1:])
        app(prog_name="segproto")
    except KeyboardInterrupt:
        fail("interrupted; a training run goes on with: segproto train --resume DIR", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader (head, less) left: not an error
        sys.exit(141)
    except Exception as error:
        if os.environ.get("SEGPROTO_DEBUG") or (line := one_line(error)) is None:
            raise
        fail(line, 2)


def refuse_empty(arguments: list[str]) -> None:
    """Refuses an empty argument, which is a shell's variable that is not set; as a path it would be this folder.

    Raises:
        ConfigError: naming the option.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if argument == "" or (argument.startswith("--") and argument.endswith("=")):
            name = argument.rstrip("=") or (before if before.startswith("-") else "an argument")
            raise ConfigError(f"{name} is empty (a variable that is not set?); give it a value")


def one_line(error: Exception) -> str | None:
    """What to tell a person about an error; None for a defect of segproto, which keeps its traceback."""
    if isinstance(error, SegprotoError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'file'}: {error.strerror}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate" in str(error):
        return f"out of memory; {MEMORY_HINT} ({str(error).splitlines()[0] if str(error) else 'allocation refused'})"
    return None


def fail(line: str, code: int) -> NoReturn:
    """Prints one line on stderr and exits."""
    print(f"segproto: {line}", file=sys.stderr)
    sys.exit(code)
