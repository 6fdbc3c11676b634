"""What every data set gives: images, masks with 255 for void, names and a class table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from segproto.data.pixels import RGB, to_colours
from segproto.prototypes.labels import IGNORE_INDEX


def label_dtype(num_classes: int) -> torch.dtype:
    """What masks of so many classes are stored in: uint8, or int16 for more than 255 (their class 255 is no class)."""
    return torch.uint8 if num_classes <= IGNORE_INDEX else torch.int16


@dataclass(frozen=True)
class ClassTable:
    """Names and display colours of classes ``0..C-1``; void is not a class.

    Attributes:
        names: one name per class.
        colours: one RGB triple (0..255) per class.
        values: what the mask files hold for each class, a number or a colour ``#rrggbb`` (the first, where several
            mean one); None where that is not known.
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    values: tuple[int | str, ...] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def hole(self) -> frozenset[int]:
        """Numbers that are no class: 255, which is void, in tables of more than 255 classes."""
        return frozenset({IGNORE_INDEX} if self.num_classes > IGNORE_INDEX else ())

    @property
    def numbered(self) -> bool:
        """Whether the classes have numbers only, as those of a checkpoint that does not name them."""
        return self.names == numbered_names(self.num_classes)

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"names": list(self.names), "colours": [list(c) for c in self.colours]}
        return value if self.values is None else value | {"values": list(self.values)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ClassTable:
        colours = tuple((int(r), int(g), int(b)) for r, g, b in value["colours"])
        values = value.get("values")
        return cls(tuple(value["names"]), colours, None if values is None else tuple(values))


def numbered_names(count: int) -> tuple[str, ...]:
    """Names of classes that nothing names."""
    return tuple(f"class {i}" for i in range(count))


class HasStat(Protocol):
    """A file, perhaps inside an archive."""

    def stat(self) -> Any:
        """With ``st_size`` and ``st_mtime_ns``."""


def stamp_of(*files: HasStat) -> str:
    """Size in bytes and date in nanoseconds of each file, ``SIZE@DATE SIZE@DATE``: what changes when a file does."""
    return " ".join(f"{stat.st_size}@{stat.st_mtime_ns}" for stat in (file.stat() for file in files))


class Sample(NamedTuple):
    """One image as stored.

    Attributes:
        image: pixels (N, H, W), mostly uint8 RGB; see :mod:`segproto.data.pixels`.
        mask: (H, W) with 255 = void, see ``label_dtype``.
        name: unique in its data set.
        show: the bands that stand for red, green and blue in pictures.
    """

    image: Tensor
    mask: Tensor
    name: str
    show: tuple[int, int, int] = RGB

    @property
    def colours(self) -> Tensor:
        """The image as a picture, uint8 (3, H, W): for people, and for what compares colours."""
        return to_colours(self.image, self.show)


class SegmentationDataset(ABC):
    """An indexable set of samples at their native size, without augmentation.

    Attributes:
        classes: the class table.
        names: one unique name per image (the relative path without suffix for files).
        split: ``train`` or ``val``.
        levels: masks hold amounts 0..254 instead of classes, and are resized bicubically.
    """

    classes: ClassTable
    names: Sequence[str]
    split: str
    levels: bool = False

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Reads one image and its mask.

        Raises:
            DataError: naming the file, if it cannot be read or its mask does not fit.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A short hash that changes when the files (or the generator's settings) change; keys caches."""

    def path(self, index: int) -> Path | None:
        """The image file, or None for generated images."""
        return None

    def stamp(self, index: int) -> str:
        """Sizes and dates of an image's files, see :func:`stamp_of`; empty where it is generated or one of a stack."""
        return ""

    def parts(self, index: int) -> Tensor | None:
        """Part ids, int64 (H, W), 0 = no part; None where the set has no parts."""
        return None

    @property
    def part_names(self) -> dict[int, str]:
        """Part id to name; empty where the set has no parts."""
        return {}

    def instances(self, index: int) -> Tensor | None:
        """Instance numbers, int64 (H, W), 0 = none; None where there are none for this image."""
        return None

    @property
    def instance_sizes(self) -> dict[str, float]:
        """Mean pixels of one instance of each class that has instances; empty where the set has none."""
        return {}

    @property
    def assumes_void(self) -> bool:
        """Whether 255 in the mask files is void by convention alone: nothing that a person wrote says so."""
        return False

    @property
    def former_classes(self) -> dict[str, int]:
        """Where classes were merged or renamed: their names before, in order, and the number each has now."""
        return {}

    @property
    def label_source(self) -> str | None:
        """The folder (or archive) that the masks are read from; None where they are no files."""
        return None
