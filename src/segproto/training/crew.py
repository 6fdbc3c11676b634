"""The processes of one run on one machine: they end together, and one of them says why."""

from __future__ import annotations

import os
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from segproto.errors import SegprotoError, plain

if TYPE_CHECKING:
    from lightning_fabric import Fabric

OFTEN = 0.5  # seconds between two looks at the others
PATIENCE = 3.0  # seconds that the first process gets to end by itself once another one is gone
INTERRUPTED, LEFT_ALONE = 130, 3  # exit codes: Ctrl-C; another process is gone
LOST = ("gloo", "nccl", "connection", "peer", "store", "socket")  # in what torch says when another process is gone
Words = tuple[str, str]  # what the processes work on, and how it goes on
_at_work: list[Words] = []  # of this process
_others: list[subprocess.Popen[bytes]] = []  # what the first process started, for as long as it lives


@contextmanager
def together(fabric: Fabric, work: object, again: str) -> Iterator[None]:
    """The block is one work: when one of its processes dies or errs all end within seconds, and one line is told.

    The first process speaks; if it is the one that was killed, the second one does.

    Args:
        fabric: launched. Processes that ``torchrun`` or ``srun`` started are ended by it; who tells, :func:`speaks`.
        work: what they work on, as a run's folder, for the line.
        again: how it goes on, the end of the line.

    Raises:
        SegprotoError: in the first process: another one ended, or the error that it ended with.
    """
    words = (str(work), again)
    _at_work.append(words)
    launcher: Any = getattr(fabric.strategy, "launcher", None)
    _others.extend(process for process in getattr(launcher, "procs", []) if process not in _others)
    if fabric.world_size == 1 or not (_others or _is_launched()):
        yield
    elif fabric.global_rank == 0:
        yield from _first(words, fabric.world_size)
    else:
        yield from _another(words, fabric.global_rank, fabric.world_size)


def _is_launched() -> bool:
    """Whether a first process started this one with its own command."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0 and "TORCHELASTIC_RUN_ID" not in os.environ


def _first(words: Words, world: int) -> Iterator[None]:
    _silence_lightning()
    ended = threading.Event()
    threading.Thread(target=_watch_others, args=(words, world, ended), daemon=True).start()
    try:
        yield
    except BaseException as error:
        known = isinstance(error, SegprotoError | KeyboardInterrupt)
        line = None if known or not _is_lost(error) else _wait_for_reason(words, world)
        _end_others()
        if line is not None:
            raise SegprotoError(line) from None
        raise
    finally:
        ended.set()


def _another(words: Words, rank: int, world: int) -> Iterator[None]:
    terminal = os.dup(2)
    if "SEGPROTO_DEBUG" not in os.environ:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what it warns of the first process warns of, too
    parent = os.getppid()

    def leave_if_alone() -> None:
        if os.getppid() != parent:
            if rank == 1:
                _tell(terminal, _gone(words, 0, world, "was ended"))
            os._exit(LEFT_ALONE)

    def watch() -> None:
        while True:
            time.sleep(OFTEN)
            leave_if_alone()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    except SegprotoError as error:
        _leave_words(rank, str(error))
        os._exit(2)
    except BaseException as error:
        if _is_lost(error):
            time.sleep(2 * OFTEN)  # the watch tells who it was
            os._exit(LEFT_ALONE)
        _leave_words(rank, traceback.format_exc())
        os._exit(1)


def _tell(terminal: int, line: str) -> None:
    """The line, where nothing else of this process can be shown any more."""
    os.write(terminal, f"segproto: {plain(line)}\n".encode())


def _is_lost(error: BaseException) -> bool:
    """Whether torch says in its way that another process does not answer."""
    return isinstance(error, RuntimeError | OSError) and any(word in str(error).lower() for word in LOST)


def _watch_others(words: Words, world: int, ended: threading.Event) -> None:
    """Ends the first process if another one is gone and it does not notice by itself, waiting for it."""
    while not ended.wait(OFTEN):
        codes = [process.poll() for process in _others]
        if not any(codes):
            continue
        if ended.wait(PATIENCE):
            return
        interrupted = all(code in (None, 0, INTERRUPTED) for code in codes)
        if not interrupted:
            _tell(2, _reason(words, world) or f"{words[0]}: a process ended")
        _end_others()
        os._exit(INTERRUPTED if interrupted else 2)


def _wait_for_reason(words: Words, world: int) -> str | None:
    end = time.monotonic() + 4
    while (line := _reason(words, world)) is None and time.monotonic() < end:
        time.sleep(0.05)
    return line


def _reason(words: Words, world: int) -> str | None:
    """Which process is gone and why; None if none is, or only those that were left alone."""
    codes = {rank: process.poll() for rank, process in enumerate(_others, 1)}
    for rank, code in codes.items():
        if code in (1, 2) and (reason := _last_words(rank)):
            return reason
    for rank, code in codes.items():
        if code not in (None, 0, LEFT_ALONE):
            return _gone(words, rank, world, f"was ended by signal {-code}" if code < 0 else f"ended with code {code}")
    return None


def _gone(words: Words, rank: int, world: int, how: str) -> str:
    return f"{words[0]}: process {rank + 1} of {world} {how} (out of memory?), the others stopped; {words[1]}"


def _end_others() -> None:
    for process in _others:
        process.kill()
    for process in _others:
        process.wait()


def _store() -> Any:
    """What the processes of a group tell each other through; it lives in the first one."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()


def _leave_words(rank: int, words: str) -> None:
    try:
        _store().set(f"segproto/{rank}", words)
    except Exception:  # the first process is gone
        return


def _last_words(rank: int) -> str:
    try:
        store, key = _store(), f"segproto/{rank}"
        return bytes(store.get(key)).decode() if store.check([key]) else ""
    except Exception:  # the group was never made
        return ""


def speaks() -> bool:
    """Whether this process tells why all of them end: the first one that asks, of those that a launcher started."""
    from torch import distributed as dist

    formed = dist.is_available() and dist.is_initialized()
    try:
        store = _store() if formed else _agents_store()
        return int(store.add("segproto/told", 1)) == 1
    except Exception:  # the first process, in which the store was, is gone; or there never was one
        return not formed or dist.get_rank() == 1


def _agents_store() -> Any:
    """What torchrun's processes tell each other through before they are a group."""
    from datetime import timedelta

    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=2))


def left_alone(error: BaseException | None) -> str | None:
    """The line for a process that a launcher started and that ends because of another one; None for other errors.

    Args:
        error: what torch raised; None = the launcher ends this process.
    """
    if error is not None and not _is_lost(error):
        return None
    work, again = _at_work[-1] if _at_work else ("segproto", "run the command again")
    return f"{work}: another process was ended (out of memory?), and this one with it; {again}"


def _silence_lightning() -> None:
    """Its own observer kills every process, the first one too, without a word; ours is there instead."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []  # type: ignore[attr-defined]
