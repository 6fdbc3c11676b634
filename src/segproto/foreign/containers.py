"""Filling plain containers and records, with keys that are safe to hash."""

from __future__ import annotations

from typing import Any

from segproto.foreign.records import Name, Record, Refusal

SCALARS = (str, bytes, int, float, bool, type(None), Name, Record)
DEEPEST_KEY = 3


def key(value: Any, depth: int = 0) -> Any:
    """A value that may be a key: hashing it must end and must run no code of the file.

    Raises:
        Refusal: a container other than a small tuple.
    """
    if isinstance(value, SCALARS):
        return value
    if isinstance(value, tuple) and len(value) <= 8 and depth < DEEPEST_KEY:
        return tuple(key(v, depth + 1) for v in value)
    raise Refusal(f"a {type(value).__name__} as a key; expected text or a number")


def set_items(target: Any, values: list[Any]) -> None:
    """Puts alternating keys and values into a dict or a record."""
    pairs = target.entries if isinstance(target, Record) else target
    if not isinstance(pairs, dict) or len(values) % 2:
        raise Refusal("its pickle sets items of something that is no dict; the file is damaged")
    pairs.update((key(k), v) for k, v in zip(values[::2], values[1::2], strict=True))


def extend(target: Any, values: list[Any]) -> None:
    """Appends to a list or a record."""
    elements = target.elements if isinstance(target, Record) else target
    if not isinstance(elements, list):
        raise Refusal("its pickle appends to something that is no list; the file is damaged")
    elements.extend(values)
