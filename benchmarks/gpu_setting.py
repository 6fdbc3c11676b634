"""Where ``gpu.py`` measures, and what its rows are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

Row = tuple[str, str, str]  # what, value, remark
MEASURED = ("blackbox", "protoseg", "scaleproto", "nonparametric")  # whose losses take any batch


@dataclass(frozen=True)
class Setting:
    """Where and how much.

    Attributes:
        device: what is measured.
        quick: tiny sizes.
        seconds: after which a section begins nothing new.
        folder: for what runs leave.
    """

    device: torch.device
    quick: bool
    seconds: float
    folder: Path

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def median_ms(self, call: Callable[[], object], runs: int = 5) -> float:
        """Milliseconds of the middle one of some calls, after two that do not count."""
        runs, times = (2, []) if self.quick else (runs, [])
        for number in range(runs + 2):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            times += [time.perf_counter() - start] if number > 1 else []
        return 1e3 * sorted(times)[len(times) // 2]


def verdict(good: bool, words: str) -> str:
    return words if good else f"FAILED: {words}"
