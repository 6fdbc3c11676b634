"""A pickled ``torch.nn.Module`` as its state dict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from segproto.errors import WeightsError
from segproto.foreign.records import Record

DEEPEST = 32
KINDS = ("_parameters", "_buffers", "_modules")


def module_state(record: Record, path: Path) -> dict[str, Tensor]:
    """The state dict of a module that was pickled whole: parameters and persistent buffers by dotted name.

    Args:
        record: what :func:`segproto.foreign.read` made of it.
        path: the file, for messages.

    Raises:
        WeightsError: the record is no module.
    """
    return dict(walk(record, path, "", 0))


def walk(record: Any, path: Path, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Own tensors first, then the children's, in torch's order."""
    kinds = [record.attributes.get(k, {}) for k in KINDS] if is_module(record) else []
    if not all(isinstance(kind, dict) for kind in kinds) or not kinds or depth > DEEPEST:
        name = record.class_name if isinstance(record, Record) else type(record).__name__
        at = f" at {prefix.removesuffix('.')}" if prefix else ""
        raise WeightsError(f"{path}: expected a pickled torch module, found {name}{at}")
    parameters, buffers, modules = kinds
    passing = record.attributes.get("_non_persistent_buffers_set") or ()
    for name, value in [*parameters.items(), *((k, v) for k, v in buffers.items() if k not in passing)]:
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
    for name, child in modules.items():
        if child is not None:
            yield from walk(child, path, f"{prefix}{name}.", depth + 1)


def is_module(value: Any) -> bool:
    """Whether it stands for a torch module."""
    return isinstance(value, Record) and "_modules" in value.attributes
