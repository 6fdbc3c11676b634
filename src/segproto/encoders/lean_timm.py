"""timm, imported in a third of the time: without torch's compiler, which it names and nothing here runs.

``timm`` and the torchvision below it import ``torch._dynamo`` for one function and one decorator, and that imports
sympy, triton and a thousand modules more: 1.3 of 1.8 seconds of processor time, in every command that has a model. Both
get stand-ins that turn to the real ones when they are called.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from segproto.imports import quick

COMPILER = "torch._dynamo"
_lock = threading.Lock()


def lean_timm() -> Any:
    """The module ``timm``."""
    with _lock, later(COMPILER), quick():
        import timm
    return timm


@contextmanager
def later(name: str) -> Iterator[None]:
    """In the block torch's compiler is a stand-in; one that is imported already stays."""
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None:
        yield
        return
    utils = StandIn(f"{name}.utils", is_compile_supported=is_compile_supported)
    below = list(spec.submodule_search_locations or ())
    names = {name: StandIn(name, disable=disable, utils=utils, __path__=below), utils.__name__: utils}
    sys.modules.update(names)
    try:
        yield
    finally:
        give_way(names)


class StandIn(ModuleType):
    """A module that has a few things; the real one takes its place as soon as more of it is wanted."""

    def __init__(self, name: str, **has: Any) -> None:
        super().__init__(name)
        vars(self).update(has)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(real(self.__name__), attribute)


def real(name: str) -> Any:
    """The module itself."""
    give_way({one: sys.modules.get(one) for one in (COMPILER, f"{COMPILER}.utils")})
    return importlib.import_module(name)


def give_way(names: Mapping[str, ModuleType | None]) -> None:
    """Takes stand-ins out of the list of modules."""
    for name, module in names.items():
        if isinstance(module, StandIn) and sys.modules.get(name) is module:
            del sys.modules[name]


def disable(function: Any = None, recursive: bool = True, *, wrapping: bool = True, **more: Any) -> Any:
    """``torch._dynamo.disable``, which takes effect at the first call."""
    if not wrapping:  # asked at a first call
        return real(COMPILER).disable(function, recursive, wrapping=False, **more)
    from torch._compile import _disable_dynamo

    return _disable_dynamo(function, recursive)


def is_compile_supported(device_type: Any) -> Any:
    """``torch._dynamo.utils.is_compile_supported``."""
    return real(f"{COMPILER}.utils").is_compile_supported(device_type)
