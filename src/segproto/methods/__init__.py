"""The methods: one folder each, and one line here. Nothing else in the tree names a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segproto.training.method import Method


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


def _primaps() -> Method[Any]:
    from segproto.methods.primaps import METHOD

    return METHOD


def _protoseg() -> Method[Any]:
    from segproto.methods.protoseg import METHOD

    return METHOD


def _scaleproto() -> Method[Any]:
    from segproto.methods.scaleproto import METHOD

    return METHOD


METHODS: dict[str, Callable[[], Method[Any]]] = {
    "blackbox": _blackbox,
    "memory": _memory,
    "nonparametric": _nonparametric,
    "pixelcontrast": _pixelcontrast,
    "primaps": _primaps,
    "protoseg": _protoseg,
    "scaleproto": _scaleproto,
}
