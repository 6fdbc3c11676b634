"""``segproto``: the application and how it fails."""

from __future__ import annotations

import _thread
import io
import logging
import os
import signal
import sys
import threading
import time
import warnings
from typing import Any, NoReturn

from segproto.cli.app import app
from segproto.errors import ConfigError, SegprotoError, plain

INTERRUPTED = 130  # exit code of a program that Ctrl-C ended
MEMORY_HINT = "lower train.batch_size or data.augment.crop, or pass --window to predict and evaluate"


def main() -> None:
    """Runs the command line. Errors for people become one line on stderr and exit code 2.

    ``SEGPROTO_DEBUG=1`` shows the traceback instead.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 shows what it can
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings are for developers of torch
    sys.unraisablehook = obey_interrupt
    if started_with_others():
        end_as_one()
    try:
        refuse_empty(sys.argv[1:])
        code = app(prog_name="segproto", standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(code or 0)
    except KeyboardInterrupt:
        fail("interrupted; a training run goes on with: segproto train --resume DIR", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader (head, less) left: not an error
        sys.exit(141)
    except Exception as error:
        if hasattr(error, "format_message"):
            usage(error)
        line = None if os.environ.get("SEGPROTO_DEBUG") else one_line(error)
        if started_with_others() and not os.environ.get("SEGPROTO_DEBUG"):
            from segproto.training.crew import LEFT_ALONE, left_alone, speaks

            gone = left_alone(error) if line is None else None
            if gone is not None:
                time.sleep(1)  # whoever knows more tells first
            if not speaks():
                leave(LEFT_ALONE if gone is not None else 2)
            line = line or gone
        if line is None:
            raise
        fail(line, 2)


def started_with_others() -> bool:
    """Whether torchrun or srun started this process as one of several."""
    several = os.environ.get("WORLD_SIZE" if "TORCHELASTIC_RUN_ID" in os.environ else "SLURM_STEP_NUM_TASKS", "1")
    return several != "1"


def end_as_one() -> None:
    """Sees that one process alone tells why all end, and that the first alone warns."""
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID")) != "0" and not os.environ.get("SEGPROTO_DEBUG"):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)

    def ended(number: int, frame: object) -> None:
        from segproto.training.crew import LEFT_ALONE, left_alone, speaks

        if speaks():
            print(f"segproto: {plain(left_alone(None) or '')}", file=sys.stderr)
        leave(LEFT_ALONE)

    signal.signal(signal.SIGTERM, ended)  # by it torchrun ends those that are left


def leave(code: int) -> NoReturn:
    """Ends this process at once: others are gone, and what torch does at an end would wait for them."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def obey_interrupt(ignored: sys.UnraisableHookArgs) -> None:
    """A Ctrl-C that fell into code which cannot be interrupted (a compiler's callback) is given once more."""
    if issubclass(ignored.exc_type, KeyboardInterrupt):
        threading.Timer(0.1, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(ignored)


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
        return "\n".join(map(plain, error.args))
    if isinstance(error, OSError) and error.strerror:
        return plain(f"{error.filename or 'file'}: {error.strerror}")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate" in str(error):
        return f"out of memory; {MEMORY_HINT} ({str(error).splitlines()[0] if str(error) else 'allocation refused'})"
    return None


def usage(error: Any) -> NoReturn:
    """Shows what click says of arguments that it does not understand, which may be names of files, and exits."""
    if error.ctx is None or type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(error.exit_code)
    print(f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help.\n", file=sys.stderr)
    print(f"Error: {plain(error.format_message())}", file=sys.stderr)
    if files := [value for value in sys.argv[1:] if value.startswith("-") and os.path.exists(value)]:
        print(f"For the file of that name write ./{plain(files[0])}", file=sys.stderr)
    sys.exit(error.exit_code)


def fail(line: str, code: int) -> NoReturn:
    """Prints one line on stderr and exits."""
    print(f"segproto: {line}", file=sys.stderr)
    sys.exit(code)
