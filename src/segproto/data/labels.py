"""From the numbers or colours stored in mask files to classes 0..C-1 and 255 for void."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segproto.data.base import ClassTable
from segproto.data.images import read_colours, read_stored
from segproto.errors import DataError
from segproto.prototypes.labels import IGNORE_INDEX


@dataclass(frozen=True)
class LabelMap:
    """What the values in mask files mean.

    Attributes:
        table: names and display colours.
        lookup: stored value (or ``0xRRGGBB`` colour) to class, 255 = void.
        coloured: the masks hold colours, not numbers.
        reader: of the stored values (H, W) of a file, where they are neither.
    """

    table: ClassTable
    lookup: dict[int, int]
    coloured: bool = False
    reader: Callable[[Path], NDArray[np.int64]] | None = None

    @cached_property
    def byte_table(self) -> tuple[bytes, bytes]:
        """The class of each of the 256 bytes, and the bytes that are known: what labels of 8 bits need."""
        single_bytes = [value for value in self.lookup if 0 <= value < 256]
        table = bytearray(256)
        for value in single_bytes:
            table[value] = self.lookup[value]
        return bytes(table), bytes(single_bytes)

    def apply(self, stored: NDArray[np.int64] | NDArray[np.uint8], path: Path | str) -> NDArray[Any]:
        """Stored values (any shape) to classes, uint8; int16 for more than 255 classes.

        Raises:
            DataError: naming the file, the value and the classes, for a value outside the classes.
        """
        if stored.dtype == np.uint8 and not self.coloured:
            (by_byte, single_bytes), raw = self.byte_table, stored.tobytes()
            if unknown := raw.translate(None, single_bytes):
                raise DataError(f"{path}: {self._complaint(np.frombuffer(unknown, np.uint8))}")
            return np.frombuffer(bytearray(raw.translate(by_byte)), np.uint8).reshape(stored.shape)
        keys = np.array(sorted(self.lookup), dtype=np.int64)
        targets = np.array([self.lookup[int(k)] for k in keys], dtype=np.int16)
        if int(keys[-1]) < 65536 and keys[0] >= 0:
            table = np.full(65537, -1, dtype=np.int16)  # the last entry catches values beyond 16 bits
            table[keys] = targets
            mapped = table[np.where((stored < 0) | (stored > 65536), 65536, stored)]
            bad = mapped < 0
        else:
            index = np.searchsorted(keys, stored).clip(max=len(keys) - 1)
            mapped = targets[index]
            bad = keys[index] != stored
        if bad.any():
            raise DataError(f"{path}: {self._complaint(stored[bad])}")
        return mapped if self.table.num_classes > IGNORE_INDEX else mapped.astype(np.uint8)

    def read(self, path: Path) -> Tensor:
        """A mask file as (H, W), 255 = void; see ``apply``.

        Raises:
            DataError: naming the file.
        """
        if self.reader is not None:
            return torch.from_numpy(self.apply(self.reader(path), path))
        stored = read_colours(path) if self.coloured else read_stored(path)
        return torch.from_numpy(self.apply(stored, path))

    def _show(self, value: int) -> str:
        return f"#{value:06x}" if self.coloured else str(value)

    def _complaint(self, bad: NDArray[np.int64] | NDArray[np.uint8]) -> str:
        unknown, counts = np.unique(bad, return_counts=True)
        value = self._show(int(unknown[counts.argmax()]))
        others = f" (and {len(unknown) - 1} other values)" if len(unknown) > 1 else ""
        known = ", ".join(
            f"{self._show(v)}={self.table.names[c] if c != IGNORE_INDEX else 'void'}"
            for v, c in sorted(self.lookup.items())[:24]
        )
        known += ", ..." if len(self.lookup) > 24 else ""
        return (
            f"value {value}{others} in {len(bad)} pixels is none of the classes ({known}); add it to classes.yaml"
            " as a class value or under void"
        )
