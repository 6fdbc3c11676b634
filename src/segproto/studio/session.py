"""What one browser has edited: a list of edits with undo and redo. Sessions never see each other's."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from segproto.errors import ConfigError

SESSIONS = 32  # kept; the one that was quiet longest goes first
STEPS = 500  # edits remembered a session


@dataclass(frozen=True)
class Edits:
    """All that differs from the model, as :func:`segproto.model.edit.edited` takes it.

    Attributes:
        drop: prototypes.
        forbid: (group, prototype).
        merge: (prototype, the one it becomes).
        reweight: (group, factor).
    """

    drop: tuple[int, ...] = ()
    forbid: tuple[tuple[int, int], ...] = ()
    merge: tuple[tuple[int, int], ...] = ()
    reweight: tuple[tuple[int, float], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.drop or self.forbid or self.merge or self.reweight)

    def options(self) -> dict[str, Any]:
        """As keyword arguments."""
        return {"drop": self.drop, "forbid": self.forbid, "merge": self.merge, "reweight": self.reweight}

    def to_json(self) -> dict[str, Any]:
        return {name: [list(v) if isinstance(v, tuple) else v for v in value] for name, value in self.options().items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Edits:
        """What :meth:`to_json` gave.

        Raises:
            ConfigError: of another form.
        """
        try:
            pairs = [tuple(sorted((int(a), int(b)) for a, b in value.get(name, ()))) for name in ("forbid", "merge")]
            weights = tuple(sorted((int(g), float(factor)) for g, factor in value.get("reweight", ())))
            return cls(tuple(sorted(int(p) for p in value.get("drop", ()))), pairs[0], pairs[1], weights)
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError("edits of another form than the page sends; load the page again") from error


@dataclass(frozen=True)
class Step:
    """One edit: all edits up to it, and what it is called."""

    edits: Edits
    words: str


@dataclass
class Session:
    """The edits of one browser.

    Attributes:
        steps: the first is the model as it is; those after ``at`` were undone.
        at: the step in force.
    """

    steps: list[Step] = field(default_factory=lambda: [Step(Edits(), "the model as it is")])
    at: int = 0

    @property
    def edits(self) -> Edits:
        """What is in force."""
        return self.steps[self.at].edits

    def do(self, edits: Edits, words: str) -> None:
        """Adds an edit; what was undone is forgotten."""
        self.steps = [*self.steps[: self.at + 1], Step(edits, words)][:STEPS]
        self.at = len(self.steps) - 1

    def go(self, to: int) -> None:
        """Undoes or redoes up to a step."""
        if not 0 <= to < len(self.steps):
            raise ConfigError(f"edit {to}: there are {len(self.steps) - 1}")
        self.at = to


def changed(edits: Edits, action: Mapping[str, Any], group_name: Callable[[int], str]) -> Step:
    """The edits after one action of the page.

    Args:
        edits: before it.
        action: ``kind`` (one of ``ACTIONS``) with ``prototype``, ``group``, ``into`` or ``factor`` as it needs.
        group_name: of a group's number, for words.

    Raises:
        ConfigError: an unknown action, or a number that is missing.
    """
    kind = action.get("kind")
    if not isinstance(kind, str) or kind not in ACTIONS:
        raise ConfigError(f"{kind!r} is no edit")
    return ACTIONS[kind](edits, action, group_name)


def drop(edits: Edits, action: Mapping[str, Any], group_name: Callable[[int], str]) -> Step:
    """Switches a prototype off, whatever it was merged with."""
    p = number(action, "prototype")
    pairs = tuple(pair for pair in edits.merge if p not in pair)
    left = {*edits.drop, p}
    return Step(replace(edits, drop=tuple(sorted(left)), merge=pairs), f"switched prototype {p} off")


def keep(edits: Edits, action: Mapping[str, Any], group_name: Callable[[int], str]) -> Step:
    """Takes that back."""
    p = number(action, "prototype")
    left = tuple(q for q in edits.drop if q != p)
    return Step(replace(edits, drop=left), f"switched prototype {p} on again")


def forbid(edits: Edits, action: Mapping[str, Any], group_name: Callable[[int], str]) -> Step:
    """A group does without a prototype."""
    pair = (number(action, "group"), number(action, "prototype"))
    pairs = tuple(sorted({*edits.forbid, pair}))
    return Step(replace(edits, forbid=pairs), f"forbade prototype {pair[1]} in {group_name(pair[0])}")


def allow(edits: Edits, action: Mapping[str, Any], group_name: Callable[[int], str]) -> Step:
    """Takes that back."""
    pair = (number(action, "group"), number(action, "prototype"))
    pairs = tuple(other for other in edits.forbid if other != pair)
    return Step(replace(edits, forbid=pairs), f"allowed prototype {pair[1]} in {group_name(pair[0])} again")


def merge(edits: Edits, action: Mapping[str, Any], group_name: Callable[[int], str]) -> Step:
    """A prototype becomes another one, also one that was switched off."""
    p, into = number(action, "prototype"), number(action, "into")
    if into == p:
        raise ConfigError(f"prototype {p} cannot be merged into itself")
    if into in edits.drop:
        raise ConfigError(f"prototype {into} is switched off: switch it on again to merge another into it")
    pairs = tuple(sorted([*(pair for pair in edits.merge if pair[0] != p), (p, into)]))
    left = tuple(q for q in edits.drop if q != p)
    return Step(replace(edits, merge=pairs, drop=left), f"merged prototype {p} into {into}")


def part(edits: Edits, action: Mapping[str, Any], group_name: Callable[[int], str]) -> Step:
    """Takes that back."""
    p = number(action, "prototype")
    pairs = tuple(pair for pair in edits.merge if pair[0] != p)
    return Step(replace(edits, merge=pairs), f"prototype {p} stands for itself again")


def reweight(edits: Edits, action: Mapping[str, Any], group_name: Callable[[int], str]) -> Step:
    """A group counts more or less."""
    g, factor = number(action, "group"), action.get("factor")
    if not isinstance(factor, int | float) or isinstance(factor, bool):
        raise ConfigError(f"a weight of {factor!r}; expected a number")
    others = [pair for pair in edits.reweight if pair[0] != g]
    pairs = tuple(sorted(others if factor == 1 else [*others, (g, float(factor))]))
    return Step(replace(edits, reweight=pairs), f"{group_name(g)} counts {factor:g} times")


ACTIONS = {action.__name__: action for action in (drop, keep, forbid, allow, merge, part, reweight)}


def number(action: Mapping[str, Any], name: str) -> int:
    """A whole number of an action.

    Raises:
        ConfigError: it is none.
    """
    value = action.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name} {value!r}: expected a number")
    return value


class Sessions:
    """The sessions by their names, which browsers make up at random."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> Session:
        """The session of that name, a new one if there is none."""
        if not 8 <= len(name) <= 64 or not name.replace("-", "").isalnum():
            raise ConfigError("a session of another form than the page sends; load the page again")
        with self._lock:
            session = self._sessions.pop(name, None) or Session()
            self._sessions[name] = session
            while len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
            return session
