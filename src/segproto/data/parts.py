"""Part maps: which number in a part file is which part of which class.

.. code-block:: yaml

    maps: parts                # folder of the part maps, under data.root (data.part_maps overrides it)
    suffix: _parts             # end of their stems that does not belong to the name (data.part_suffix overrides it)
    void: 255                  # values that name no part; 0 is always one
    classes:
      person: {torso: 1, head: 2, arm: 3, leg: 4}     # names as in classes.yaml; a list or a range merges values
      car: {door: 10-19, wheel: [20, 21]}

Values belong to the class that the **mask** shows at the pixel, so classes may use the same numbers. With
``encoding: panoptic``, TIFF files hold ids of the panoptic parts format (``class * 100000 + instance * 100 + part``);
their class is not read, and where the mask's class has no such part, there is none.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import Tensor

from segproto.data.images import read_indices
from segproto.errors import DataError
from segproto.prototypes.labels import IGNORE_INDEX

TABLES = Path(__file__).parent / "part_tables"
PANOPTIC_PART = 100_000  # smaller ids name a class, or a class and an instance


def _numbers(value: Any) -> list[int]:
    """A number, a range ``"6-15"``, or a list of these."""
    numbers: list[int] = []
    for entry in value if isinstance(value, list) else [value]:
        match = re.fullmatch(r"(\d+)-(\d+)", entry) if isinstance(entry, str) else None
        if isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry < 65536:
            numbers.append(entry)
        elif match is not None:
            numbers.extend(range(int(match[1]), int(match[2]) + 1))
        else:
            raise ValueError(f"{entry!r} is neither a number 0..65535 nor a range like 6-15")
    return numbers


class PartsFile(BaseModel):
    """The content of a part table; see the module's description."""

    model_config = ConfigDict(extra="forbid")

    classes: dict[str, dict[str, list[int]]] = Field(min_length=1)
    maps: str = "parts"
    suffix: str = ""
    void: list[int] = []
    encoding: Literal["index", "panoptic"] = "index"

    _void = field_validator("void", mode="before")(_numbers)

    @field_validator("classes", mode="before")
    @classmethod
    def _values(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not all(isinstance(parts, dict) for parts in value.values()):
            raise ValueError("expected class names, each with its parts: {person: {torso: 1, head: 2}}")
        return {name: {part: _numbers(v) for part, v in parts.items()} for name, parts in value.items()}

    @field_validator("classes")
    @classmethod
    def _once(cls, value: dict[str, dict[str, list[int]]]) -> dict[str, dict[str, list[int]]]:
        for name, parts in value.items():
            part_of: dict[int, str] = {}
            for part, numbers in parts.items():
                for number in numbers:
                    if number in part_of:
                        raise ValueError(f"{name}: value {number} belongs to both {part_of[number]!r} and {part!r}")
                    part_of[number] = part
        return value


@dataclass(frozen=True)
class PartTable:
    """Parts of the classes of one data set, numbered 1, 2, ... over all classes in the table's order.

    Attributes:
        path: of the table.
        maps: folder of the part maps, relative to the data root.
        suffix: end of their stems.
        panoptic: TIFF files hold panoptic part ids.
        names: part id to ``CLASS PART``.
        lookup: (C + 1, V) part id of a stored value at a pixel of each class (the last row: void); -1 = unknown.
        classes: class names.
    """

    path: Path
    maps: str
    suffix: str
    panoptic: bool
    names: dict[int, str]
    lookup: NDArray[np.int64]
    classes: tuple[str, ...]

    def read(self, path: Path, mask: Tensor) -> Tensor:
        """Part ids of a file, int64 (H, W), 0 = no part.

        Args:
            path: the part map.
            mask: (H, W) classes of the same image, 255 = void.

        Raises:
            DataError: naming the file: it cannot be read, has another size or holds a value outside the table.
        """
        stored, lenient = read_indices(path), self.panoptic and path.suffix.lower() in (".tif", ".tiff")
        if stored.shape != mask.shape:
            (ph, pw), (mh, mw) = stored.shape, mask.shape
            raise DataError(f"{path}: the part map is {pw}x{ph} pixels (width x height), its mask {mw}x{mh}")
        if lenient:
            stored = np.where(stored >= PANOPTIC_PART, stored % 100, 0)
        labels = mask.numpy().astype(np.int64)
        labels = np.where(labels == IGNORE_INDEX, len(self.classes), labels)
        beyond = (stored < 0) | (stored >= self.lookup.shape[1])
        parts = self.lookup[labels, np.where(beyond, 0, stored)]
        bad = (beyond & (labels < len(self.classes))) | (parts < 0)
        if bad.any() and not lenient:
            raise DataError(f"{path}: {self._complaint(stored[bad], labels[bad])}")
        return torch.from_numpy(np.where(beyond | bad, 0, parts))

    def _complaint(self, stored: NDArray[np.int64], labels: NDArray[np.int64]) -> str:
        name = self.classes[int(labels[0])]
        own = [text.removeprefix(f"{name} ") for text in self.names.values() if text.startswith(f"{name} ")]
        return (
            f"part value {stored[0]} at a pixel of class {name!r} ({len(stored)} such pixels) is not in {self.path} "
            f"({name}: {', '.join(own) or 'no parts'}); add it there as a part's value or under void"
        )


def read_parts(given: Path, classes: Sequence[str]) -> PartTable:
    """Reads and checks a part table.

    Args:
        given: a file, or the name of a shipped table.
        classes: the data set's class names.

    Raises:
        DataError: in one line: the file, the key and what was expected; a class that the data do not have.
    """
    from segproto.files.yaml_text import read_yaml

    shipped = {file.stem: file for file in TABLES.glob("*.yaml")}
    path = shipped.get(str(given), given)
    if not path.is_file():
        known = ", ".join(sorted(shipped))
        raise DataError(f"data.parts={given} is no file and none of the shipped part tables ({known})")
    try:
        file = PartsFile.model_validate(read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}".replace(": :", ":")) from None
    unknown = [name for name in file.classes if name not in classes]
    if unknown:
        near = difflib.get_close_matches(unknown[0], classes, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"they have {', '.join(classes[:8])}"
        raise DataError(f"{path}: {unknown[0]!r} is no class of the data; {hint}")
    return PartTable(path, file.maps, file.suffix, file.encoding == "panoptic", *_number(file, classes), tuple(classes))


def _number(file: PartsFile, classes: Sequence[str]) -> tuple[dict[int, str], NDArray[np.int64]]:
    """Ids to names, and the lookup table: classes that the file leaves out have no parts, whatever is stored there."""
    highest = max([0, *file.void, *(n for parts in file.classes.values() for v in parts.values() for n in v)])
    lookup = np.zeros((len(classes) + 1, highest + 1), np.int64)
    names: dict[int, str] = {}
    for name, parts in file.classes.items():
        row = np.full(highest + 1, -1, np.int64)
        row[[0, *file.void]] = 0
        for part, numbers in parts.items():
            names[len(names) + 1] = f"{name} {part}"
            row[numbers] = len(names)
        lookup[list(classes).index(name)] = row
    return names, lookup
