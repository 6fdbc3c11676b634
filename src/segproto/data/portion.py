"""Which images of a work are this process's, and what all processes found: the part that needs no engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Portion:
    """One process's part of a work; of a process on its own, all of it.

    Attributes:
        rank: this process.
        world: processes in all.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process speaks, and writes what all of them found."""
        return self.rank == 0

    def indices(self, count: int) -> range:
        """Of ``count`` images every ``world``-th, ascending."""
        return range(self.rank, count, self.world)

    def gather(self, value: T) -> list[T]:
        """The value of every process, in order; each must call this. Tensors in it should be on the CPU."""
        return [value]


ALONE = Portion()
