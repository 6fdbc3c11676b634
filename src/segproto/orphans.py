"""Helper processes that do not outlive the one that started them, however it ended."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.process import BaseProcess

SET_PDEATHSIG = 1  # prctl(2): the signal a process gets when its parent ends


def end_with_parent() -> None:
    """Called first in a process of ``multiprocessing``: it ends when its parent does, which alone hears Ctrl-C."""
    started_by = multiprocessing.parent_process()
    if started_by is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PDEATHSIG, signal.SIGKILL)
    if sys.platform != "linux" or os.getppid() != started_by.pid:  # it is gone, or a forkserver made this process
        threading.Thread(target=_watch, args=(started_by,), daemon=True).start()


def _watch(started_by: BaseProcess) -> None:
    started_by.join()
    os._exit(1)
