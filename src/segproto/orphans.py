"""Helper processes that do not outlive the one that started them, however it ended."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time

SET_PDEATHSIG = 1  # prctl(2): the signal a process gets when its parent ends


def end_with_parent() -> None:
    """Called first in a process of ``multiprocessing``: it ends when its parent does, which alone hears Ctrl-C."""
    started_by = multiprocessing.parent_process()
    if started_by is None:
        return
    parent = started_by.pid
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _watch(parent: int | None) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
