"""Two ways to the same answer, timed in turns, so that a drifting machine is fair to both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

CLOCK = time.perf_counter  # time.process_time: the work of this process, on a machine that others use


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: is computed.
        ours: seconds of the fastest round.
        plain: the same of what it is compared with.
        ratio: plain / ours, the median over rounds.
        spread: smallest and largest ratio.
        answer: how far both agree.
        same: whether they do; a row that does not is no result.
    """

    what: str
    ours: float
    plain: float
    ratio: float
    spread: tuple[float, float]
    answer: str
    same: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Skipped:
    """A line that says what could not be measured here, and why."""

    what: str
    why: str


def race(
    what: str,
    ours: Callable[[], object],
    plain: Callable[[], object],
    answer: tuple[str, bool],
    rounds: int = 5,
    often: int = 1,
    clock: Callable[[], float] | None = None,
) -> Row:
    """Times both in turns; each has run once before, to warm up.

    Args:
        what: of the row.
        ours: one way.
        plain: the other.
        answer: how far both agree, and whether that is enough.
        rounds: of both.
        often: calls of ours per round, where it is much faster.
        clock: where other processes do the work, ``time.perf_counter``; None = :data:`CLOCK`.
    """
    now = clock or CLOCK
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        start = now()
        for _ in range(often):
            ours()
        middle = now()
        plain()
        times.append(((middle - start) / often, now() - middle))
    ratios = [slow / fast for fast, slow in times]
    spread = (min(ratios), max(ratios))
    fast, slow = min(t[0] for t in times), min(t[1] for t in times)
    return Row(what, fast, slow, statistics.median(ratios), spread, *answer)
