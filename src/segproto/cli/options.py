"""``key=value`` settings and lists on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from segproto.errors import ConfigError


def settings(values: Sequence[str] | None) -> list[str]:
    """The ``key=value`` arguments.

    Raises:
        ConfigError: an argument without ``=``.
    """
    for value in values or ():
        if "=" not in value:
            raise ConfigError(f"{value!r}: expected key=value, as in train.seed=1")
    return list(values or ())


def numbers(text: str | None, option: str) -> list[int] | None:
    """``1,2,3`` to integers.

    Raises:
        ConfigError: naming the option.
    """
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option} {text}: expected whole numbers between commas, as in 1,2,3") from error


def bands(text: str | None) -> list[int | str] | Literal["names"] | None:
    """``4,1,nir`` to numbers and names of bands.

    Raises:
        ConfigError: an empty one.
    """
    if text is None or text == "names":
        return text  # type: ignore[return-value]
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ConfigError(f"--bands {text}: expected numbers or names between commas, as in 4,1,2")
    return [int(part) if part.isdecimal() else part for part in parts]


def pages(text: str | None) -> int | Literal["all"] | None:
    """``all``, or the number of a page.

    Raises:
        ConfigError: neither.
    """
    if text is None or text == "all":
        return text  # type: ignore[return-value]
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"--pages {text}: expected all, or the number of a page, from 1")
    return int(text)


def factors(text: str, option: str) -> list[float]:
    """``0.75,1,1.25`` to numbers.

    Raises:
        ConfigError: naming the option.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option} {text}: expected numbers between commas, as in 0.75,1,1.25") from error
    if not all(0 < value <= 8 for value in values):
        raise ConfigError(f"{option} {text}: each factor must lie in (0, 8]")
    return values


def value_kind(text: str) -> Literal["indices", "classes"]:
    """What masks hold.

    Raises:
        ConfigError: neither of the two.
    """
    if text == "classes":
        return "classes"
    if text != "indices":
        raise ConfigError(f"--values {text}: expected indices or classes")
    return "indices"
