"""Tables of named entries: data sets, heads, metrics ... What is named in one place is found by name everywhere."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from segproto.errors import ConfigError, plain

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema


EntryT = TypeVar("EntryT")
MOST_NAMES = 30  # that an error line lists


class Table(Mapping[str, EntryT]):
    """Entries by name, in the order they are listed in.

    Beside those that are shipped there are two ways in, both by the entry itself, never by a path in a setting:
    :meth:`register`, for as long as a process runs, and the entry points of installed packages, which the command line
    finds, too: ``[project.entry-points."segproto.data"]`` with ``squares = "my_package:SQUARES"``.

    Args:
        what: of what kind the entries are, in messages.
        entries: those that are shipped.
        group: of entry points.
        name: the attribute in which an entry carries its own name.
    """

    def __init__(self, what: str, entries: Iterable[EntryT], group: str, name: str = "name") -> None:
        self.what, self.group = what, group
        self._name: Callable[[EntryT], str] = attrgetter(name)
        self._entries = {self._name(entry): entry for entry in entries}
        self._shipped = frozenset(self._entries)
        self._looked = False

    def register(self, entry: EntryT) -> EntryT:
        """Adds an entry for as long as this process runs: from then on its name works wherever a shipped one does.

        Args:
            entry: yours; one registered before under its name is replaced, as when a notebook's cell runs again.

        Returns:
            The entry.

        Raises:
            ConfigError: a shipped entry has the name.
        """
        name = self._name(entry)
        if name in self._shipped:
            raise ConfigError(f"{self.what} {name!r} is shipped with segproto; give yours another name")
        self._entries[name] = entry
        return entry

    def find(self, name: str) -> EntryT:
        """The entry of that name.

        Raises:
            ConfigError: there is none; the nearest name is told.
        """
        if name not in self:
            raise ConfigError(f"{self.what} {name!r} is unknown; {nearest(name, self)}")
        return self[name]

    def __getitem__(self, name: str) -> EntryT:
        if name not in self._shipped:
            self._look()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._look()
        return iter(self._entries)

    def __len__(self) -> int:
        self._look()
        return len(self._entries)

    def _look(self) -> None:
        """Takes in what installed packages offer, once; one that cannot be imported is told of and left out."""
        if self._looked:
            return
        self._looked = True
        from importlib.metadata import entry_points

        for point in entry_points(group=self.group):
            try:
                self.register(point.load())
            except Exception as error:  # another's code, and its errors of any kind
                log.warning("warning: entry point %s = %s cannot be used: %s", point.name, point.value, plain(error))


@dataclass(frozen=True, eq=False)  # by identity: a member of a union must have a hash, which a table has not
class Known(Generic[EntryT]):
    """Marks a text field of a pydantic model as a name of a table: ``Annotated[str, Known(DATASETS)]``.

    Attributes:
        table: looked at when a value is checked, so that names registered later are known, too.
    """

    table: Table[EntryT]

    def check(self, name: str) -> str:
        """The name itself.

        Raises:
            ValueError: the table lacks it; the nearest name is told.
        """
        if name not in self.table:
            raise ValueError(f"no {self.table.what} has this name; {nearest(name, self.table)}")
        return name

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": list(self.table)}


def nearest(name: str, known: Iterable[str]) -> str:
    """``did you mean NAME?``, or where none is near the names there are, 30 at most."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    rest = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(names[:MOST_NAMES])}{rest}"
