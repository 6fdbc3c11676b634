"""``classes.yaml``: all a folder of images and masks needs.

.. code-block:: yaml

    classes:                      # in order: the first is class 0
      - name: road
        values: 7                 # the number in the masks; a list merges several: [7, 8]
        colour: [128, 64, 128]    # shown in pictures; left out: a colour-blind-safe palette
      - name: tree
        values: "#00ff00"         # masks that hold colours: "#RRGGBB", or a list of them
    void: [0, 255]                # values (or colours) that are no class; 255 always is, unless a class takes it
    split:                        # one rule, see SplitConfig; lists are looked for beside this file, then in data.root
      val_pattern: "^tile4_"

The short form ``classes: [background, cat, dog]`` gives the values 0, 1, 2.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from segproto.data.base import ClassTable
from segproto.data.labels import LabelMap
from segproto.data.palette import default_colours
from segproto.data.split import SplitConfig
from segproto.errors import DataError
from segproto.files.keys import shown
from segproto.prototypes.labels import IGNORE_INDEX

EXAMPLES = Path(__file__).parent / "examples"
_SCHEMA = "classes: [{name: ..., values: 1}, ...]"


def _stored_values(value: Any) -> list[int | str]:
    """One number or colour, or a list of them; colours as ``#RRGGBB`` or [r, g, b] inside a list."""
    items = value if isinstance(value, list) else [value]
    result: list[int | str] = []
    for entry in items:
        if isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry < 65536:
            result.append(entry)
        elif isinstance(entry, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", entry):
            result.append(entry.lower())
        elif isinstance(entry, list) and len(entry) == 3 and all(isinstance(v, int) and 0 <= v < 256 for v in entry):
            result.append("#{:02x}{:02x}{:02x}".format(*entry))
        else:
            raise ValueError(f'{entry!r} is neither a number 0..65535 nor a colour "#RRGGBB" nor [[r, g, b]]')
    return result


class ClassEntry(BaseModel):
    """One class: its name, the values (numbers or colours) of it in the masks, and the colour to show it in."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    values: list[int | str]
    colour: tuple[int, int, int] | None = None

    _values = field_validator("values", mode="before")(_stored_values)

    @field_validator("colour")
    @classmethod
    def _byte(cls, value: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
        if value is not None and not all(0 <= v <= 255 for v in value):
            raise ValueError(f"colour {list(value)} must be three numbers 0..255")
        return value


class ClassesFile(BaseModel):
    """The content of a ``classes.yaml``; see the module's description."""

    model_config = ConfigDict(extra="forbid")

    classes: list[ClassEntry] = Field(min_length=1, max_length=255)
    void: list[int | str] = []
    split: SplitConfig | None = None

    _void = field_validator("void", mode="before")(_stored_values)

    @field_validator("classes", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return [{"name": name, "values": i} for i, name in enumerate(value)]
        return value

    @model_validator(mode="after")
    def _consistent(self) -> ClassesFile:
        names = [entry.name for entry in self.classes]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"class name {name!r} occurs twice")
        name_of: dict[int | str, str] = {}
        for name, values in [*((e.name, e.values) for e in self.classes), ("void", self.void)]:
            for value in values:
                if value in name_of:
                    raise ValueError(f"value {value} belongs to both {name_of[value]!r} and {name!r}")
                name_of[value] = name
        if len({isinstance(value, str) for value in name_of}) > 1:
            raise ValueError("give numbers or colours for all classes and void, not some of each")
        return self

    def label_map(self) -> LabelMap:
        """What the values in the masks mean."""
        coloured = any(isinstance(value, str) for entry in self.classes for value in entry.values)
        lookup = {} if coloured else {IGNORE_INDEX: IGNORE_INDEX}
        lookup |= {_key(value): IGNORE_INDEX for value in self.void}
        for index, entry in enumerate(self.classes):
            lookup |= {_key(value): index for value in entry.values}
        palette = default_colours(len(self.classes))
        colours = []
        for entry, fallback in zip(self.classes, palette, strict=True):
            own = int(str(entry.values[0])[1:], 16) if coloured and entry.values else None
            stored = fallback if own is None else (own >> 16, own >> 8 & 255, own & 255)
            colours.append(entry.colour or stored)
        return LabelMap(ClassTable(tuple(e.name for e in self.classes), tuple(colours)), lookup, coloured)


def _key(value: int | str) -> int:
    return int(value[1:], 16) if isinstance(value, str) else value


@dataclass(frozen=True)
class Classes:
    """A read ``classes.yaml``: the label map, the split it asks for, and where it lies."""

    labels: LabelMap
    split: SplitConfig | None
    path: Path


def find_classes(name: Path | None, root: Path) -> Path:
    """The ``classes.yaml`` to use: a file, the name of a shipped example, or the one in ``root``.

    Raises:
        DataError: if there is none.
    """
    if name is None:
        path = root / "classes.yaml"
        if not path.is_file():
            raise DataError(f"{path}: no such file; write it ({_SCHEMA}) or set data.classes=FILE")
        return path
    shipped = {file.stem: file for file in EXAMPLES.glob("*.yaml")}
    if str(name) in shipped and not name.is_file():
        return shipped[str(name)]
    if not name.is_file():
        raise DataError(f"data.classes={name} is no file and none of the shipped tables ({', '.join(sorted(shipped))})")
    return name


def read_classes(path: Path) -> Classes:
    """Reads and checks a ``classes.yaml``.

    Raises:
        DataError: in one line: the file, the key and what was expected.
    """
    from segproto.files.yaml_text import read_yaml

    content = read_yaml(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected {_SCHEMA}")
    try:
        file = ClassesFile.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: {_first_error(error)}") from None
    return Classes(file.label_map(), file.split, path)


def _first_error(error: ValidationError) -> str:
    errors = error.errors()
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])  # a typo also makes a key missing
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        words = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        if first["type"] == "too_short":
            words = f"expected at least 1 class, as in {_SCHEMA}"
        elif first["type"] in ("list_type", "model_type"):
            words = f"expected {_SCHEMA}"
        elif first["type"] != "value_error" and isinstance(first["input"], int | float | str):
            words += f", found {shown(first['input'])}"
        return f"{key}: {words}".removeprefix(": ")
    models: dict[int, type[BaseModel]] = {1: ClassesFile, 2: SplitConfig}
    model = models.get(len(first["loc"]), ClassEntry)
    near = difflib.get_close_matches(str(first["loc"][-1]), list(model.model_fields), n=1, cutoff=0.5)
    advice = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(model.model_fields)}"
    return f"unknown key {key!r}; {advice}"
