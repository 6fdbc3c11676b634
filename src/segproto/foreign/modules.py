"""A pickled ``torch.nn.Module`` as its state dict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from segproto.errors import WeightsError
from segproto.foreign.records import Record

DEEPEST = 32
STEP, FREE_STEPS = 16, 1 << 20  # what a name costs beside its letters; what every file may spend
KINDS = ("_parameters", "_buffers", "_modules")


def module_state(record: Record, path: Path) -> dict[str, Tensor]:
    """The state dict of a module that was pickled whole: parameters and persistent buffers by dotted name.

    Args:
        record: what :func:`segproto.foreign.read` made of it.
        path: the file, for messages.

    Raises:
        WeightsError: the record is no module, or holds the same modules in each other again and again.
    """
    return dict(Walk(path).tensors(record, "", 0))


class Walk:
    """Through the modules of a file, which a short file can hold in each other in exponentially many ways.

    Args:
        path: the file, whose size bounds what names may be made of it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.left = path, FREE_STEPS + path.stat().st_size

    def tensors(self, record: Any, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        """Own tensors first, then the children's, in torch's order."""
        kinds = [record.attributes.get(k, {}) for k in KINDS] if is_module(record) else []
        if not all(isinstance(kind, dict) for kind in kinds) or not kinds or depth > DEEPEST:
            name = record.class_name if isinstance(record, Record) else type(record).__name__
            at = f" at {prefix.removesuffix('.')}" if prefix else ""
            raise WeightsError(f"{self.path}: expected a pickled torch module, found {name}{at}")
        parameters, buffers, modules = kinds
        stored = record.attributes.get("_non_persistent_buffers_set") or ()
        passing = stored if isinstance(stored, (set, frozenset, list, tuple)) else ()
        for name, value in [*parameters.items(), *((k, v) for k, v in buffers.items() if k not in passing)]:
            if isinstance(value, Tensor):
                yield self.named(prefix, name), value
        for name, child in modules.items():
            if child is not None:
                yield from self.tensors(child, f"{self.named(prefix, name)}.", depth + 1)

    def named(self, prefix: str, name: object) -> str:
        """A name, paid for with its length.

        Raises:
            WeightsError: it is no text, or the file is not long enough for so many.
        """
        self.left -= len(prefix) + len(name) + STEP if isinstance(name, str) else 0
        if not isinstance(name, str) or self.left < 0:
            why = "the same again and again (a bomb)" if isinstance(name, str) else f"a {type(name).__name__} as a name"
            raise WeightsError(f"{self.path}: its modules hold {why}; expected a pickled torch module")
        return prefix + name


def is_module(value: Any) -> bool:
    """Whether it stands for a torch module."""
    return isinstance(value, Record) and "_modules" in value.attributes
