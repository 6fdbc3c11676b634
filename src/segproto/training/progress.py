"""What a person sees while a run works: a bar with ETA and loss; without a terminal a line per stage and minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from segproto.errors import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

EVERY = 60.0  # seconds between two lines of the same work
Tell = Callable[[str, int, int], None]

_CURRENT: ContextVar[Reporter | None] = ContextVar("segproto_reporter", default=None)


class Bar:
    """One bar; does nothing without a terminal. Calling it as ``bar(done, total)`` sets it."""

    def __init__(self, progress: Progress | None, task: TaskID | None) -> None:
        self._progress, self._task = progress, task

    def __call__(self, done: int, total: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    def part(self, title: str, done: int, total: int) -> None:
        """Sets it to one of several parts of the work, whose name is shown at its end."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total, note=plain(title))

    def note(self, text: str) -> None:
        """Shows a few words at the end of the bar."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, note=plain(text))


class ToldBar(Bar):
    """A bar that another program draws: it is called with (title, done, total)."""

    def __init__(self, tell: Tell, title: str, done: int, total: int) -> None:
        super().__init__(None, None)
        self._tell, self._title = tell, title
        self(done, total)

    def __call__(self, done: int, total: int) -> None:
        self._tell(self._title, done, total)

    def part(self, title: str, done: int, total: int) -> None:
        self(done, total)


class LineBar(Bar):
    """Where there is no terminal: a line a minute with the time left, of work that takes longer.

    Args:
        say: prints a line.
        title: of the work.
        done: how much of it is done at the start.
    """

    def __init__(self, say: Callable[[str], None], title: str, done: int) -> None:
        super().__init__(None, None)
        self._say, self._title, self._note = say, title, ""
        self._last = (time.monotonic(), done)

    def __call__(self, done: int, total: int) -> None:
        since, before = self._last
        seconds = time.monotonic() - since
        if seconds < EVERY or done >= total:
            return
        # by the speed since the last line: what an interrupted run had done is passed over at once
        left = f", about {in_words((total - done) * seconds / (done - before))} left" if done > before else ""
        self._say(f"{self._title}: {done} of {total}{left}{self._note}")
        self._last = (time.monotonic(), done)

    def part(self, title: str, done: int, total: int) -> None:
        self._note = f" ({title})"
        self(done, total)

    def note(self, text: str) -> None:
        self._note = f", {text}"


def in_words(seconds: float) -> str:
    """``40 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Reporter:
    """Bars and lines of one run.

    Args:
        active: False on all processes but the first, and when asked to be quiet.
        tell: takes (title, done, total) of every bar instead of a terminal.
    """

    def __init__(self, active: bool = True, tell: Tell | None = None) -> None:
        self.active, self._tell = active, tell
        self._console: Console | None = None
        self._progress: Progress | None = None

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """A bar with time left, shown while the block runs; bars of inner blocks stand below it.

        Without a terminal it is a line a minute (:class:`LineBar`).
        """
        if self._tell is not None:
            yield ToldBar(self._tell, title, done, total)
            return
        if not self.active:
            yield Bar(None, None)
            return
        if not sys.stderr.isatty():
            yield LineBar(self.line, title, done)
            return
        outer = self._progress
        progress = outer or self._start()
        task = progress.add_task(plain(title), total=total, completed=done, note="")
        try:
            yield Bar(progress, task)
        finally:
            progress.remove_task(task)
            if outer is None:
                progress.stop()
                self._progress = None

    def line(self, text: str) -> None:
        """One line that stays."""
        if self.active:
            self._get_console().print(plain(text), markup=False, highlight=False, emoji=False)

    def _get_console(self) -> Console:
        from rich.console import Console

        self._console = self._console or Console(stderr=True, soft_wrap=True)
        return self._console

    def _start(self) -> Progress:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._get_console(),
            transient=True,
        )
        self._progress.start()
        return self._progress


@contextmanager
def reporting(reporter: Reporter) -> Iterator[Reporter]:
    """Makes ``reporter`` the one that procedures inside the block find."""
    token = _CURRENT.set(reporter)
    try:
        yield reporter
    finally:
        _CURRENT.reset(token)


def current() -> Reporter:
    """The reporter of the run in progress, or a silent one."""
    return _CURRENT.get() or Reporter(active=False)
