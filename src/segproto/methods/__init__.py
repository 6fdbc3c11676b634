"""The methods: one folder each, and one line here. Nothing else in the tree names a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segproto.training.method import Method


def _blackbox() -> Method:
    from segproto.methods.blackbox import METHOD

    return METHOD


def _nonparametric() -> Method:
    from segproto.methods.nonparametric import METHOD

    return METHOD


def _pixelcontrast() -> Method:
    from segproto.methods.pixelcontrast import METHOD

    return METHOD


def _primaps() -> Method:
    from segproto.methods.primaps import METHOD

    return METHOD


def _protoseg() -> Method:
    from segproto.methods.protoseg import METHOD

    return METHOD


def _scaleproto() -> Method:
    from segproto.methods.scaleproto import METHOD

    return METHOD


METHODS: dict[str, Callable[[], Method]] = {
    "blackbox": _blackbox,
    "nonparametric": _nonparametric,
    "pixelcontrast": _pixelcontrast,
    "primaps": _primaps,
    "protoseg": _protoseg,
    "scaleproto": _scaleproto,
}
