"""Prototype-based semantic segmentation that explains itself.

>>> import segproto
>>> model = segproto.load("runs/em")
>>> mask = model.predict("image.png")
>>> why = model.explain("image.png")

Every verb of :mod:`segproto.api` is here, and is loaded on first use, so ``import segproto`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from segproto.version import __version__ as __version__

if TYPE_CHECKING:
    from segproto.api import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Fetches a verb from :mod:`segproto.api`, or the list of them, when it is first used."""
    if name.startswith("_") and name != "__all__":  # what the import system and inspection ask for is no verb
        raise AttributeError(f"module 'segproto' has no attribute {name!r}")
    api = import_module("segproto.api")

    if name == "data":  # segproto.data.open
        return import_module("segproto.data")
    if name == "api":  # ``from segproto import api`` asks here before it looks for a module of that name
        return api
    if name == "__all__":
        return api.__all__
    if name not in api.__all__:
        raise AttributeError(f"module 'segproto' has no attribute {name!r}")
    return getattr(api, name)


def __dir__() -> list[str]:
    api = import_module("segproto.api")

    return [*api.__all__, "__version__"]
