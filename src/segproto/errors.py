"""Errors meant for people: one clear line, shown without a traceback; and what a terminal may be shown."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

# Control characters, halves of surrogate pairs (bytes of a file's name that are no text), line and paragraph ends.
UNSHOWN = frozenset({"Cc", "Cs", "Zl", "Zp"})
TURNING = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)  # of the direction of text


class SegprotoError(Exception):
    """Something the user can mend. The message names the file, the value, what was expected and the fix.

    Args:
        lines: the message; of several problems found at once, one each.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class ConfigError(SegprotoError):
    """A recipe or an option is wrong."""


class DataError(SegprotoError):
    """A data set, an image, a mask or a list is wrong or missing."""


class WeightsError(SegprotoError):
    """A weights file or a model artefact is wrong or missing."""


class UnreadableImages(DataError):
    """Some images of a folder cannot be read; whatever could be made of the others was made.

    Args:
        broken: each of them, and why.
        written: what was made.
    """

    def __init__(self, broken: Mapping[Path, str], written: Sequence[Path]) -> None:
        total = len(broken) + len(written)
        super().__init__(f"{len(broken)} of {total} images cannot be read, the others are done:", *broken.values())
        self.broken, self.written = broken, written


def plain(text: object) -> str:
    """Text for a terminal: names of files, classes and stages may hold line ends and escape codes, which are shown.

    Returns:
        The text on one line, with ``\\n``, ``\\x1b`` and the like for what would not be a character of it.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if c in TURNING or unicodedata.category(c) in UNSHOWN else c for c in text
    )
