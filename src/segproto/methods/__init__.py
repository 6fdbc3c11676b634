"""The methods: one folder each, and one line here. Nothing else in the tree names a method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from segproto.table import Table

if TYPE_CHECKING:
    from segproto.training.method import Method


class Methods(Table["Method[Any]"]):
    """Methods by name; a shipped one is imported when it is first asked for.

    Args:
        shipped: name to what imports the method.
    """

    def __init__(self, shipped: Mapping[str, Callable[[], Method[Any]]]) -> None:
        super().__init__("method", (), "segproto.methods")
        self._makers, self._shipped = dict(shipped), frozenset(shipped)

    def __getitem__(self, name: str) -> Method[Any]:
        make = self._makers.get(name)
        return super().__getitem__(name) if make is None else make()

    def __iter__(self) -> Iterator[str]:
        yield from self._makers
        yield from super().__iter__()

    def __len__(self) -> int:
        return len(self._makers) + super().__len__()


def _blackbox() -> Method[Any]:
    from segproto.methods.blackbox import METHOD

    return METHOD


def _memory() -> Method[Any]:
    from segproto.methods.memory import METHOD

    return METHOD


def _nonparametric() -> Method[Any]:
    from segproto.methods.nonparametric import METHOD

    return METHOD


def _pixelcontrast() -> Method[Any]:
    from segproto.methods.pixelcontrast import METHOD

    return METHOD


def _posthoc() -> Method[Any]:
    from segproto.methods.posthoc import METHOD

    return METHOD


def _primaps() -> Method[Any]:
    from segproto.methods.primaps import METHOD

    return METHOD


def _protoseg() -> Method[Any]:
    from segproto.methods.protoseg import METHOD

    return METHOD


def _scaleproto() -> Method[Any]:
    from segproto.methods.scaleproto import METHOD

    return METHOD


METHODS = Methods(
    {
        "blackbox": _blackbox,
        "memory": _memory,
        "nonparametric": _nonparametric,
        "pixelcontrast": _pixelcontrast,
        "posthoc": _posthoc,
        "primaps": _primaps,
        "protoseg": _protoseg,
        "scaleproto": _scaleproto,
    }
)
