"""What a person decided about suspicious labels, in a file that outlives reloads, the studio and others beside it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from segproto.errors import ConfigError, DataError, SegprotoError
from segproto.evaluation.review.decisions import Verdict
from segproto.files import hold, write_json
from segproto.files.documents import Record, read_checked

FILE = "decisions.json"
WAIT = 5.0  # seconds for another studio on the same run to have written its own
STEPS = 500  # decisions that can be undone


class Reason(Record):
    """A patch or a prototype for the suggested class, see :class:`segproto.evaluation.review.labels.Reason`."""

    share: float
    image: str | None = None
    box: list[int] | None = Field(default=None, min_length=4, max_length=4)
    prototype: int | None = Field(default=None, ge=0)


class Entry(Record):
    """A suspicious region, as ``labels.json`` has it."""

    image: str
    box: list[int] = Field(min_length=4, max_length=4)
    label: str
    suggested: str
    score: float
    pixels: int
    runs: list[int]
    patches: list[Reason] = Field([])
    prototypes: list[Reason] = Field([])

    @property
    def key(self) -> str:
        """What the region is known by, in whatever list it stands."""
        text = json.dumps([self.image, self.label, self.box, self.runs])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def plain(self) -> dict[str, Any]:
        """What says where the region is and what it should be, as ``segproto.apply_decisions`` takes it."""
        return self.model_dump(include={"image", "box", "label", "suggested", "score", "pixels", "runs"})


class Decided(Entry):
    """A region with what was decided; ``to`` is a class of ``correct``."""

    verdict: Verdict
    to: str | None = None


class Step(Record):
    """What a decision replaced: the region's key and the decision before, if there was one."""

    key: str
    before: Decided | None = None


class Content(Record):
    """The file: decisions in the order in which they were made, and what is needed to take them back."""

    revision: int = 0
    decisions: list[Decided] = Field([])
    steps: list[Step] = Field([])


class Decisions:
    """The decisions about the labels of one run, shared by all windows and studios that look at it.

    The file holds whole regions, so it needs no list beside it: its ``decisions`` are what
    ``segproto.apply_decisions`` takes.

    Args:
        folder: where the file lies.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def read(self) -> Content:
        """What was decided so far.

        Raises:
            DataError: the file is there and cannot be read; it is left as it is.
        """
        if not self.path.exists():
            return Content()
        return read_checked(self.path, Content, DataError, "move it away to begin anew")

    def decide(self, entry: Entry, verdict: Verdict, to: str | None) -> Content:
        """Writes a decision down; the one before about this region is replaced.

        Raises:
            SegprotoError: the file cannot be read or written.
        """
        with self._changing() as content:
            before = taken(content, entry.key)
            content.decisions.append(Decided(**entry.plain(), verdict=verdict, to=to if verdict == "correct" else None))
            content.steps = [*content.steps, Step(key=entry.key, before=before)][-STEPS:]
        return content

    def undo(self, revision: int) -> tuple[Content, str]:
        """Takes the last decision back.

        Args:
            revision: of what the person sees.

        Returns:
            What is left, and the key of the region.

        Raises:
            ConfigError: there is nothing to take back, or somebody decided since.
        """
        with self._changing() as content:
            if revision != content.revision:
                raise ConfigError("decided in another window since: see what changed, then undo")
            if not content.steps:
                raise ConfigError("there is nothing to take back")
            step = content.steps.pop()
            taken(content, step.key)
            if step.before is not None:
                content.decisions.append(step.before)
        return content, step.key

    @contextmanager
    def _changing(self) -> Iterator[Content]:
        """The file's content, written again at the end of the block; other studios wait meanwhile."""
        with held(self.path.parent):
            content = self.read()
            yield content
            content.revision += 1
            write_json(self.path, content.model_dump(exclude_none=True), "decisions")


def taken(content: Content, key: str) -> Decided | None:
    """Takes the decision about a region out of the list."""
    found = next((one for one in content.decisions if one.key == key), None)
    if found is not None:
        content.decisions.remove(found)
    return found


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """:func:`segproto.files.hold`, after a moment's patience.

    Raises:
        SegprotoError: another process holds it all the time.
    """
    end = time.monotonic() + WAIT
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(hold(folder))
                break
            except SegprotoError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        yield
