"""A proposal as the text of a ``classes.yaml``, with the counts a person needs to edit it."""

from __future__ import annotations

from typing import Any

import yaml

from segproto.data.layouts.counting import Values
from segproto.data.layouts.finding import Finding
from segproto.data.layouts.proposal import Proposal
from segproto.errors import plain

SHOWN = 12  # mixed values that are listed one by one
WIDTH = 110


def classes_text(proposal: Proposal, values: Values, finding: Finding) -> str:
    """The file."""
    counts = Counts(values, finding, proposal)
    lines = [
        f"# Written by `segproto data init` from what {values.masks} masks hold. Edit it: names, order, merged values.",
        *_comment(finding.line()),
        *(_comment(f"names from {finding.names_from}") if finding.names_from else ()),
        "classes:                 # in order: the first is class 0",
    ]
    for name, stored in proposal.classes.items():
        lines.append(f"  - name: {_scalar(name)}")
        entry = stored[0] if len(stored) == 1 else stored
        lines.append(f"    values: {_scalar(entry)}  # {counts.words(stored)}")
        if name in proposal.colours:
            colour = proposal.colours[name]
            lines.append(f"    colour: [{colour >> 16}, {colour >> 8 & 255}, {colour & 255}]")
    counted = f"  # {counts.words(proposal.void)}" if proposal.void else "  # values that do not count"
    lines.append(f"void: {_scalar(proposal.void)}{counted}")
    if proposal.nearest:
        lines.append("rest: nearest            # or void, or the name of a class")
    for note in proposal.notes:
        lines += _comment(note)
    if proposal.mixed:
        lines += _comment(f"the most frequent of {len(proposal.mixed)} values that are not listed:")
        for value, near in proposal.mixed[:SHOWN]:
            lines.append(f"#   {counts.text(value)}: {values.pixels[value]:,} pixels, nearest {counts.text(near)}")
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _comment(text: str) -> list[str]:
    """Comment lines of at most ``WIDTH`` characters, broken between words."""
    lines, line = [], "#"
    for word in plain(text).split():
        if len(line) + len(word) + 1 > WIDTH:
            lines.append(line)
            line = "#  "
        line += f" {word}"
    return [*lines, line]


class Counts:
    """Pixels and images of classes, those of mixed values included."""

    def __init__(self, values: Values, finding: Finding, proposal: Proposal) -> None:
        self.values, self.numbers = values, finding.numbers
        self.pixels = values.pixels.copy()
        for value, near in proposal.mixed:
            self.pixels[near] += values.pixels[value]

    def text(self, value: int) -> str:
        """A value as it is written in the file."""
        return f"#{value:06x}" if self.values.coloured else str(value)

    def words(self, stored: list[int | str]) -> str:
        """Pixels and images of a class."""
        images = max((self.values.images[self._key(value)] for value in stored), default=0)
        return f"{self.share(stored):.2%} of the pixels, in {images} of {self.values.masks} masks"

    def share(self, stored: list[int | str]) -> float:
        """A class's share of all pixels."""
        return sum(self.pixels[self._key(value)] for value in stored) / max(self.values.total, 1)

    def _key(self, value: int | str) -> int:
        if isinstance(value, int):
            return value
        return self.numbers[value] if self.numbers is not None else int(value[1:], 16)
