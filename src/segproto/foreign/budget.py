"""What reading one file may cost. No number and no repetition in it is believed: work and memory stay proportional to
the bytes that are really there.
"""

from __future__ import annotations

from typing import Any

from segproto.foreign.records import Refusal

WORK = 4  # elements copied for each byte of a pickle read so far; honest ones need less than one
MEMORY = 4  # bytes of all tensors for each byte of the file: shared storages count once for each tensor
FREE_WORK, FREE_MEMORY = 10_000, 1 << 26
INTEGER_BITS = 256  # torch's magic number has 77, numpy's random state 128
MOST_DIMENSIONS = 64  # torch's and numpy's own limit


class Work:
    """Elements that containers and arrays were copied from; a short reference can stand for a long list each time."""

    def __init__(self) -> None:
        self.spent = 0

    def charge(self, values: Any, read: int) -> None:
        """Counts what a call or a state of these values can copy.

        Args:
            values: a tuple of arguments or parts, or one of them.
            read: bytes of the pickle read so far.

        Raises:
            Refusal: more than the pickle could have written down.
        """
        self.spent += extent(values)
        if isinstance(values, tuple):
            self.spent += sum(map(extent, values))
        if self.spent > WORK * read + FREE_WORK:
            raise Refusal("it has the same contents copied again and again (a bomb); nothing more of it was read")


class Room:
    """Bytes that the tensors of a file may have together, views of one storage counted each.

    Args:
        size: of the file.
    """

    def __init__(self, size: int) -> None:
        self.left = MEMORY * size + FREE_MEMORY

    def take(self, count: int) -> None:
        """Takes so many bytes.

        Raises:
            Refusal: there are not so many left.
        """
        self.left -= count
        if self.left < 0:
            raise Refusal("its tensors repeat their numbers to many times the file (a bomb); nothing more was read")


def extent(value: Any) -> int:
    """Elements that a copy of a value has; 0 for what is no container."""
    return len(value) if isinstance(value, (str, bytes, bytearray, list, tuple, dict, set, frozenset)) else 0


def sizes(value: Any) -> tuple[int, ...] | None:
    """A shape or stride: few whole numbers from 0, small enough to calculate with; else None."""
    few = isinstance(value, tuple) and len(value) <= MOST_DIMENSIONS
    return value if few and all(type(n) is int and 0 <= n < 1 << 62 for n in value) else None
