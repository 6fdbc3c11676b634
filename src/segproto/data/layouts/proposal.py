"""From what masks hold to a ``classes.yaml`` that a person edits: nothing is decided without a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from segproto.data.labels import channels
from segproto.data.layouts.counting import Values
from segproto.data.layouts.finding import BACKGROUND, Finding, NamedValue
from segproto.errors import DataError
from segproto.prototypes.labels import IGNORE_INDEX

MOST = IGNORE_INDEX  # classes of a classes.yaml
FEW, APART = 8, 16  # solid gray values of blurred masks, and the steps between them
CLOSE = 40  # steps of a channel within which a value of a JPEG is a blurred neighbour
SLIGHT = 24  # the same for borders that are blurred without JPEG
COMMON = 0.005  # share of pixels from which a colour is a class even if it fills no square
VOID_NAMES = frozenset({"void", "ignore", "ignored", "__ignore__"})
BY_CONVENTION = (
    "255 is void by convention (it does not count); if it is a class here, take it out of void and list it:"
    " - {name: foreground, values: 255}"
)
TWO = (
    "0 and 255 are all there is, so 255 is taken for the object and not for void; "
    "if 255 means 'not labelled' here, move it to void"
)


@dataclass
class Proposal:
    """A ``classes.yaml`` before it is written.

    Attributes:
        classes: of each class its name and its values: numbers, colours ``0xRRGGBB`` or names of labels.
        void: values that do not count.
        nearest: values that are not listed count as the nearest one.
        mixed: values that are not listed, with the nearest that is, most pixels first.
        notes: what was decided, and how to decide otherwise, a line each.
        colours: of classes, where a file or a palette tells them and the masks do not hold them.
    """

    classes: dict[str, list[int | str]] = field(default_factory=dict)
    void: list[int | str] = field(default_factory=list)
    nearest: bool = False
    mixed: list[tuple[int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    colours: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, value: int | str) -> None:
        """A value of a class; values of one name are one class."""
        self.classes.setdefault(name, []).append(value)


def propose(values: Values, finding: Finding) -> Proposal:
    """What the values mean, as far as names, numbers and usage tell.

    Raises:
        DataError: there are more values than there may be classes.
    """
    if finding.numbers is not None:
        return _labels(values, finding)
    chosen = _chosen(values, finding.names)
    if len(chosen) > MOST:
        raise DataError(
            f"{finding.words}: the masks hold {len(chosen)} values ({min(chosen)} to {max(chosen)}), more than {MOST} "
            "classes: are they object numbers? Ranges may make them classes (values: 1000-1999); or set data.labels to "
            "other masks"
        )
    proposal = Proposal()
    if values.coloured:
        _colours(proposal, chosen, finding.names)
    else:
        _numbers(proposal, chosen, values, finding)
    rest = [value for value, _ in values.pixels.most_common() if value not in chosen]
    if rest:
        _mixed(proposal, rest, chosen, values)
    return proposal


def _labels(values: Values, finding: Finding) -> Proposal:
    proposal = Proposal()
    for name, number in sorted((finding.numbers or {}).items(), key=lambda item: item[1]):
        if not values.pixels[number]:
            if name != BACKGROUND:
                proposal.notes.append(f"no shape has the label {name!r}: left out")
        elif name.lower() in VOID_NAMES:
            proposal.void.append(name)
        else:
            proposal.add(name, name)
    proposal.notes.append(
        f"values are the names of labels; {BACKGROUND!r} is where no shape lies (move it to void if that means 'not "
        "labelled'); where shapes overlap the later one counts"
    )
    return proposal


def _chosen(values: Values, names: Sequence[NamedValue]) -> list[int]:
    """The values that are classes or void: all of them, unless they are blurred."""
    every = sorted(values.pixels)
    listed = {c for n in names if (c := n.colour if values.coloured else n.value) is not None and values.pixels[c]}
    if values.lossy:
        return sorted(listed) or _clustered(values)
    solid = {value for value in every if value in values.solid}
    if values.coloured:
        if len(every) - len(listed | solid) <= FEW:
            return sorted(listed | {v for v in every if v in solid or values.share(v) >= COMMON})
        clear = _apart([v for v, _ in values.pixels.most_common() if v in solid], listed)
        common = [v for v in every if values.share(v) >= COMMON and not _between(v, [*listed, *clear])]
        return sorted(listed | {*clear, *_apart(common, listed | {*clear})})
    gray = sorted(solid | listed)
    blurred = len(every) - len(gray) > FEW and 1 < len(gray) <= FEW and bool(min(np.diff(gray)) >= APART)
    return gray if blurred else every


def _apart(colours: Sequence[int], listed: set[int]) -> list[int]:
    """Of colours, most pixels first, those that are no slight change of one before them or of a listed one."""
    merged: list[int] = []
    for colour in colours:
        if all(_distance(colour, other, True) > SLIGHT for other in (*merged, *listed)):
            merged.append(colour)
    return merged


def _between(colour: int, others: Sequence[int]) -> bool:
    """Whether a colour may be a mixture of two others: it lies near the line between them."""
    point, ends = channels(np.array([colour]))[0], channels(np.array(others, dtype=np.int64).reshape(-1))
    for index, first in enumerate(ends):
        for second in ends[index + 1 :]:
            along = second - first
            along_line = float(np.clip((point - first) @ along / max(along @ along, 1), 0, 1))
            if np.abs(first + along_line * along - point).max() <= SLIGHT:
                return True
    return False


def _clustered(values: Values) -> list[int]:
    """The most frequent values of a JPEG that are far from each other, enough of whose pixels are flat."""
    chosen: list[int] = []
    for value, count in values.pixels.most_common():
        flat = value in values.solid and count >= COMMON * values.total
        if (flat or not chosen) and all(_distance(value, other, values.coloured) > CLOSE for other in chosen):
            chosen.append(value)
    return sorted(_ends(value) if not values.coloured else value for value in chosen)


def _ends(value: int) -> int:
    """0 or 255 for what JPEG made of them."""
    return 0 if value <= 4 else 255 if value >= 251 else value


def _distance(value: int, other: int, coloured: bool) -> float:
    if not coloured:
        return abs(value - other)
    first, second = channels(np.array([value, other]))
    return float(np.abs(first - second).max())


def _colours(proposal: Proposal, chosen: Sequence[int], names: Sequence[NamedValue]) -> None:
    named = {n.colour: n.name for n in names if n.colour is not None}
    order = [*[c for c in named if c in chosen], *[c for c in chosen if c not in named]]
    for colour in order:
        name = named.get(colour, f"colour {colour:06x}")
        text = f"#{colour:06x}"
        if name.lower() in VOID_NAMES:
            proposal.void.append(text)
        else:
            proposal.add(name, text)


def _numbers(proposal: Proposal, chosen: Sequence[int], values: Values, finding: Finding) -> None:
    by_colour = {n.colour: n.name for n in finding.names if n.colour is not None}
    named = {n.value: n.name for n in finding.names if n.value is not None}
    named = {value: by_colour[c] for value, c in values.palette.items() if c in by_colour} | named
    two = len(chosen) == 2 and chosen[0] == 0
    void = _void(chosen, named, finding, proposal)
    for value in chosen:
        name = named.get(value) or ((BACKGROUND, "foreground")[value > 0] if two else f"class {value}")
        if value in void or name.lower() in VOID_NAMES:
            proposal.void.append(value)
            continue
        proposal.add(name, value)
        colour = values.palette.get(value, next((n.colour for n in finding.names if n.name == name), None))
        if colour is not None:
            proposal.colours.setdefault(name, colour)


def _void(chosen: Sequence[int], named: dict[int, str], finding: Finding, proposal: Proposal) -> set[int]:
    """Values that are void by convention, with a word about each."""
    void: set[int] = set()
    if set(chosen) == {0, IGNORE_INDEX}:
        proposal.notes.append(TWO)
    elif IGNORE_INDEX in chosen and IGNORE_INDEX not in named:
        levels = min(np.diff(chosen)) >= APART  # 0, 128, 255: shades, all of which mean something
        if levels or len(chosen) == 1:
            proposal.notes.append("255 is taken for a class, as the values are shades far apart; void by convention")
        else:
            void.add(IGNORE_INDEX)
            proposal.notes.append(BY_CONVENTION)
    for value in finding.void:
        if value in chosen and len(chosen) > 2 and value not in named:
            void.add(value)
            proposal.notes.append(
                f"{value} is void, as in ADE20K, whose folders have these names; if it is a class here (background), "
                f"take it out of void and list it: - {{name: background, values: {value}}}"
            )
    return void


def _mixed(proposal: Proposal, rest: Sequence[int], chosen: Sequence[int], values: Values) -> None:
    proposal.nearest = True
    for value in rest:
        nearest = min(chosen, key=lambda other: _distance(value, other, values.coloured))
        proposal.mixed.append((value, nearest))
    count = sum(values.pixels[value] for value in rest)
    far = sum(values.pixels[v] for v, near in proposal.mixed if _distance(v, near, values.coloured) > CLOSE)
    kind = "colours" if values.coloured else "values"
    why = "JPEG changed them" if values.lossy else "they fill no area, as mixed borders of anti-aliasing do"
    proposal.notes.append(
        f"{count:,} pixels ({count / max(values.total, 1):.2%}) hold {len(rest)} other {kind}: {why}; rest: nearest "
        f"takes each for the nearest listed one; {far:,} ({far / max(values.total, 1):.2%}) are near none of them "
        f"(more than {CLOSE} steps); write rest: void to leave all of them out"
    )
