"""The values that a ``classes.yaml`` gives a class, as people write them: numbers, ranges, colours, names of labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MOST = 65_536  # values 0..65535, those of 16 bits
Stored = int | str  # a number, or a colour as "#rrggbb"
NAMES = "names"  # in pydantic's context: name of a label to its number, where masks are drawn from named shapes


def stored_values(value: Any, names: Mapping[str, int] | None) -> list[Stored]:
    """One value or a list of them as numbers and colours ``#rrggbb``.

    Numbers, ranges (``1000-1999``), colours (``"#00ff00"``, ``"0, 255, 0"``, ``[[0, 255, 0]]``). With ``names``: names
    of labels; those that no shape bears are left out.

    Raises:
        ValueError: what is wrong, with YAML's own traps explained.
    """
    if value is None:
        raise ValueError('empty: YAML takes what follows # for a comment; quote colours: "#00ff00"')
    items = value if isinstance(value, list) else [value]
    if names is not None:
        return [names[text] for text in map(name_of, items) if text in names]
    result: list[Stored] = []
    for item in items:
        result += _one(item)
    if len(items) == 3 and len(set(map(str, items))) < 3:
        raise ValueError(f'{items} has a number twice; is it a colour? Write [{items}] or "#RRGGBB"')
    return result


def _one(item: Any) -> list[Stored]:
    if isinstance(item, int) and not isinstance(item, bool) and 0 <= item < MOST:
        return [item]
    if isinstance(item, str):
        if re.fullmatch(r"#[0-9a-fA-F]{6}", item):
            return [item.lower()]
        if match := re.fullmatch(r"\s*(\d{1,5})\s*(?:-|\.\.)\s*(\d{1,5})\s*", item):
            first, last = int(match[1]), int(match[2])
            if not first <= last < MOST:
                raise ValueError(f"the range {item!r} is not FIRST-LAST within 0..{MOST - 1}")
            return list(range(first, last + 1))
        if match := re.fullmatch(r"\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*", item):
            item = [int(part) for part in match.groups()]
    if isinstance(item, list) and len(item) == 3 and all(isinstance(v, int) and 0 <= v < 256 for v in item):
        return ["#{:02x}{:02x}{:02x}".format(*item)]
    hint = f"; {trap(item)}" if isinstance(item, bool) or item is None else ""
    raise ValueError(
        f'{item!r} is neither a number 0..{MOST - 1} nor a range 3-7 nor a colour "#RRGGBB" nor [[r, g, b]]{hint}'
    )


def name_of(value: Any) -> str:
    """A name as text; whole numbers are names as they stand.

    Raises:
        ValueError: YAML made something else of it.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{value!r} is no name; {trap(value)}")


def trap(value: Any) -> str:
    """What YAML made of an unquoted word, and how to write it."""
    if isinstance(value, bool):
        words = "yes, on and true" if value else "no, off and false"
        return f'YAML reads {words} as {str(value).lower()}: quote the word, "{"yes" if value else "no"}"'
    if value is None:
        return 'YAML reads null, ~ and what follows an unquoted # as nothing: quote it, "#00ff00" or "null"'
    return "quote it"
