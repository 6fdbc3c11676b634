"""From the numbers or colours stored in mask files to classes 0..C-1 and 255 for void."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
        assumes_void: that 255 is void, and no other value, is a convention that a ``classes.yaml`` does not mention.
        reader: of the stored values (H, W) of a file, where they are neither.
        rest: class (255 = void) of all values that are not listed; None: they are refused.
        nearest: a value that is not listed counts as the nearest that is (numbers: by difference, colours: by their
            distance in RGB), for masks that were blurred by JPEG or by resizing.
        words: what a stored number stands for in messages, where masks are drawn from named shapes.
    """

    table: ClassTable
    lookup: dict[int, int]
    coloured: bool = False
    assumes_void: bool = False
    reader: Callable[[Path], NDArray[np.int64]] | None = None
    rest: int | None = None
    nearest: bool = False
    words: Mapping[int, str] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Whether values that are not listed are taken."""
        return self.nearest or self.rest is not None

    @property
    def key(self) -> str:
        """All that decides what a stored value means, as text for fingerprints."""
        text = repr(sorted(self.lookup.items()))
        return f"{text} rest={self.rest} nearest={self.nearest}" if self.open else text

    @cached_property
    def byte_table(self) -> tuple[bytes, bytes]:
        """The class of each of the 256 bytes, and the bytes that are known: what labels of 8 bits need."""
        single_bytes = [value for value in self.lookup if 0 <= value < 256]
        table = bytearray(256)
        for value in single_bytes:
            table[value] = self.lookup[value]
        if self.open:
            others = np.array([value for value in range(256) if value not in self.lookup], dtype=np.int64)
            for value, target in zip(others.tolist(), self.unlisted(others).tolist(), strict=True):
                table[value] = target
            return bytes(table), bytes(range(256))
        return bytes(table), bytes(single_bytes)

    def unlisted(self, values: NDArray[np.int64]) -> NDArray[np.int16]:
        """The class of values (N,) that are not listed, by ``rest`` or ``nearest``."""
        if self.rest is not None:
            return np.full(len(values), self.rest, dtype=np.int16)
        classes = np.array([self.lookup[int(k)] for k in self._keys], dtype=np.int16)
        return np.asarray(classes[self.distances(values).argmin(1)])

    def distances(self, values: NDArray[np.int64]) -> NDArray[np.float64]:
        """How far values (N,) lie from each listed one, (N, K), in steps of a channel (colours: Euclidean)."""
        if not self.coloured:
            return np.asarray(np.abs(values[:, None] - self._keys[None]), dtype=np.float64)
        return np.asarray(np.sqrt(np.square(channels(values)[:, None] - channels(self._keys)[None]).sum(-1)))

    @cached_property
    def _keys(self) -> NDArray[np.int64]:
        return np.array(sorted(self.lookup), dtype=np.int64)

    def apply(self, stored: NDArray[np.int64] | NDArray[np.uint8], path: Path | str) -> NDArray[Any]:
        """Stored values (any shape) to classes, uint8; int16 for more than 255 classes.

        Raises:
            DataError: naming the file, the value and the classes, for a value outside the classes.
        """
        if stored.dtype == np.uint8 and not self.coloured and self.table.num_classes <= IGNORE_INDEX:
            (by_byte, single_bytes), raw = self.byte_table, stored.tobytes()
            if unknown := raw.translate(None, single_bytes):
                raise DataError(f"{path}: {self._complaint(np.frombuffer(unknown, np.uint8))}")
            return np.frombuffer(bytearray(raw.translate(by_byte)), np.uint8).reshape(stored.shape)
        keys = self._keys
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
            if not self.open:
                raise DataError(f"{path}: {self._complaint(stored[bad])}")
            others, inverse = np.unique(stored[bad], return_inverse=True)
            mapped[bad] = self.unlisted(others.astype(np.int64))[inverse]
        return mapped if self.table.num_classes > IGNORE_INDEX else mapped.astype(np.uint8)

    def read(self, path: Path) -> Tensor:
        """A mask file as (H, W), 255 = void; see ``apply``.

        Raises:
            DataError: naming the file.
        """
        return torch.from_numpy(self.apply(self.stored(path), path))

    def stored(self, path: Path) -> NDArray[np.int64] | NDArray[np.uint8]:
        """The numbers or colours (H, W) that a mask file holds.

        Raises:
            DataError: naming the file.
        """
        if self.reader is not None:
            return self.reader(path)
        return read_colours(path) if self.coloured else read_stored(path)

    def show(self, value: int) -> str:
        """A stored value as people write it."""
        return f"#{value:06x}" if self.coloured else self.words.get(value, str(value))

    def _complaint(self, bad: NDArray[np.int64] | NDArray[np.uint8]) -> str:
        unknown, counts = np.unique(bad, return_counts=True)
        value = self.show(int(unknown[counts.argmax()]))
        others = f" (and {len(unknown) - 1} other values)" if len(unknown) > 1 else ""
        known = ", ".join(
            f"{self.show(v)}={self.table.names[c] if c != IGNORE_INDEX else 'void'}"
            for v, c in sorted(self.lookup.items())[:24]
        )
        known += ", ..." if len(self.lookup) > 24 else ""
        return (
            f"value {value}{others} in {len(bad)} pixels is none of the classes ({known}); add it to classes.yaml"
            " as a class value or under void, or say what all others are: rest: void, rest: CLASS or rest: nearest"
        )


def channels(colours: NDArray[np.int64]) -> NDArray[np.float64]:
    """Colours ``0xRRGGBB`` (N,) as (N, 3)."""
    return np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1).astype(np.float64)
