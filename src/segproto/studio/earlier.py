"""The edits of a studio that ended, by itself or killed: the next one on the same model offers to take them up."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from segproto.errors import DataError, SegprotoError
from segproto.files import write_json
from segproto.files.documents import Record, read_checked
from segproto.studio.session import Session

FILE = "edits.json"


class Row(Record):
    """One edit, as :meth:`segproto.studio.session.Edits.to_json` has all up to it."""

    edits: dict[str, Any]
    words: str


class Content(Record):
    """The file: the edits of the window that edited last."""

    model: str
    at: int
    steps: list[Row]


class Earlier:
    """What was edited last.

    Args:
        folder: where it is kept; None = nowhere.
        model: what the edits are of.

    Attributes:
        content: of the studio before this one; None if there is nothing to take up.
    """

    def __init__(self, folder: Path | None, model: str) -> None:
        self.path, self.model = None if folder is None else folder / FILE, model
        self.content = self._read()

    def _read(self) -> Content | None:
        if self.path is None or not self.path.is_file():
            return None
        with suppress(SegprotoError):  # whatever it is, it is no reason not to open the model
            content = read_checked(self.path, Content, DataError)
            if content.model == self.model and content.at > 0:
                return content
        return None

    def keep(self, session: Session) -> None:
        """Writes the edits of a window down; where that is not allowed the window alone has them."""
        if self.path is not None and len(session.steps) > 1:
            steps = [{"edits": step.edits.to_json(), "words": step.words} for step in session.steps[1:]]
            with suppress(SegprotoError):
                write_json(self.path, {"model": self.model, "at": session.at, "steps": steps}, "edits")
