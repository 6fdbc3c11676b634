"""Timing shared by the benchmarks: best of several runs, after a warm-up."""

from __future__ import annotations

import time
from collections.abc import Callable


def best_ms(function: Callable[[], object], runs: int = 10) -> float:
    """Milliseconds of the fastest of ``runs`` calls (CPU; the first call is not counted)."""
    function()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)
