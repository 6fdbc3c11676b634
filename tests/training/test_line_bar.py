"""Without a terminal, long work tells every minute how far it is and how long it will take."""

from __future__ import annotations

import io
import sys

import pytest

from segproto.training import progress
from segproto.training.progress import Reporter, in_words


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def lines(clock: Clock, monkeypatch: pytest.MonkeyPatch, *, active: bool, each: float, done: int = 0) -> list[str]:
    """What a work of 20 parts prints, each of which takes so many seconds."""
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    with Reporter(active).bar("stage 2/5 cams", 20, done) as bar:
        for number in range(done, 20):
            clock.now += each
            bar.note("loss 0.5")
            bar(number + 1, 20)
    return shown.getvalue().splitlines()


def test_a_line_a_minute_with_the_time_left(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    found = lines(clock, monkeypatch, active=True, each=15)
    assert found == [
        "stage 2/5 cams: 4 of 20, about 4 min left, loss 0.5",
        "stage 2/5 cams: 8 of 20, about 3 min left, loss 0.5",
        "stage 2/5 cams: 12 of 20, about 2 min left, loss 0.5",
        "stage 2/5 cams: 16 of 20, about 60 s left, loss 0.5",
    ]
    resumed = lines(clock, monkeypatch, active=True, each=30, done=16)  # what was done before tells no speed
    assert resumed == ["stage 2/5 cams: 18 of 20, about 60 s left, loss 0.5"]


def test_nothing_of_short_work_and_nothing_when_quiet(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(clock, monkeypatch, active=True, each=2.9) == []
    assert lines(clock, monkeypatch, active=False, each=15) == []


def test_durations() -> None:
    assert [in_words(s) for s in (3.2, 89, 91, 3600, 12600)] == ["3 s", "89 s", "2 min", "60 min", "3.5 h"]
