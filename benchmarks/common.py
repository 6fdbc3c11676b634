"""Timing shared by the benchmarks: best of several runs, after a warm-up."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def best_ms(function: Callable[[], object], runs: int = 10) -> float:
    """Milliseconds of the fastest of ``runs`` calls on the CPU; the first call is not counted.

    With one thread the CPU time is taken, so that other work on the machine does not count; else the wall time.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    function()
    times = []
    for _ in range(runs):
        start = clock()
        function()
        times.append(clock() - start)
    return 1e3 * min(times)
