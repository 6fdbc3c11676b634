"""Filling plain containers and records, with keys that are safe to hash."""

from __future__ import annotations

from typing import Any

from segproto.foreign.records import Name, Record, Refusal

SCALARS = (str, bytes, int, float, bool, type(None), Name, Record)
LARGEST_KEY = 1 << 64  # a dict of larger integers can be made to need quadratic time
IN_TUPLES = (str, bytes, bool, type(None), Name)
SMALL_INTEGER = 1 << 16  # in tuples, whose hashes are easily made equal


def key(value: Any) -> Any:
    """A value that may be a key: hashing it must end and must run no code of the file.

    Raises:
        Refusal: a container other than a small tuple of texts and small numbers; an integer of more than 64 bits.
    """
    if isinstance(value, SCALARS):
        if type(value) is int and abs(value) >= LARGEST_KEY:
            raise Refusal("an integer of more than 64 bits as a key; the file is damaged")
        return value
    if isinstance(value, tuple) and len(value) <= 8 and all(map(fits_tuple, value)):
        return value
    raise Refusal(f"a {type(value).__name__} as a key; expected text or a number")


def fits_tuple(value: Any) -> bool:
    """Whether a value may be in a tuple that is a key."""
    return isinstance(value, IN_TUPLES) or (type(value) is int and abs(value) < SMALL_INTEGER)


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
