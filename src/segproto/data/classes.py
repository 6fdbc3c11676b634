"""``classes.yaml``: all a folder of images and masks needs.

.. code-block:: yaml

    classes:                      # in order: the first is class 0
      - name: road
        values: 7                 # the number in the masks; several are merged: [7, 8], a range: 1000-1999
        colour: [128, 64, 128]    # shown in pictures; left out: a colour-blind-safe palette
      - name: tree
        values: "#00ff00"         # masks that hold colours: "#RRGGBB" or "r, g, b", or a list of them
    void: [0, 255]                # values (or colours) that are no class; 255 always is, unless a class takes it
                                  # (of more than 255 classes those from the 256th on have indices from 256 on)
    rest: void                    # all other values: void, a class's name, or nearest (the nearest listed one);
                                  # left out: they are an error
    split:                        # one rule, see SplitConfig; lists are looked for beside this file, then in data.root
      val_pattern: "^tile4_"

The short form ``classes: [background, cat, dog]`` gives the values 0, 1, 2. Where masks are drawn from shapes that bear
names (COCO, CVAT, labelme ...), values are these names, and ``background`` is where no shape lies; see
:mod:`segproto.data.layouts`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from segproto.data.archives import ARCHIVES
from segproto.data.base import ClassTable
from segproto.data.class_values import NAMES, Stored, stored_values, trap
from segproto.data.labels import LabelMap
from segproto.data.palette import default_colours
from segproto.data.split import SplitConfig
from segproto.errors import DataError
from segproto.files.keys import shown
from segproto.prototypes.labels import IGNORE_INDEX

EXAMPLES = Path(__file__).parent / "examples"
MOST_CLASSES = 32_000  # class maps have 16 bits
LAST = 65_535  # of 16 bits
HOLE = "(void)"  # stands at 255 in tables of more classes, and is none
VOID, NEAREST = "void", "nearest"  # of ``rest``, beside names of classes
_SCHEMA = "classes: [{name: ..., values: 1}, ...]"


def _stored(value: Any, info: ValidationInfo) -> list[Stored]:
    return stored_values(value, (info.context or {}).get(NAMES))


def _name(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        raise ValueError(f"a class without a name; {trap(value)}")
    if isinstance(value, int | float):
        raise ValueError(f'{value!r} is a number; quote the name: "{value}"')
    return value


class ClassEntry(BaseModel):
    """One class: its name, the values (numbers or colours) of it in the masks, and the colour to show it in."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    values: list[Stored]
    colour: tuple[int, int, int] | None = None

    _name = field_validator("name", mode="before")(_name)
    _values = field_validator("values", mode="before")(_stored)

    @field_validator("colour")
    @classmethod
    def _byte(cls, value: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
        if value is not None and not all(0 <= v <= 255 for v in value):
            raise ValueError(f"colour {list(value)} must be three numbers 0..255")
        return value


class ClassesFile(BaseModel):
    """The content of a ``classes.yaml``; see the module's description."""

    model_config = ConfigDict(extra="forbid")

    classes: list[ClassEntry] = Field(min_length=1, max_length=MOST_CLASSES)
    void: list[Stored] = []
    rest: str | None = None
    split: SplitConfig | None = None

    _void = field_validator("void", mode="before")(_stored)

    @field_validator("classes", mode="before")
    @classmethod
    def _short_form(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, list) and value and not any(isinstance(item, dict | list) for item in value):
            named = NAMES in (info.context or {})
            return [{"name": _name(item), "values": item if named else i} for i, item in enumerate(value)]
        return value

    @model_validator(mode="after")
    def _consistent(self) -> ClassesFile:
        names = [entry.name for entry in self.classes]
        if HOLE in names:
            raise ValueError(f"class name {HOLE!r} is taken; call it otherwise, or list its values under void")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"class name {name!r} occurs twice")
        name_of: dict[int | str, str] = {}
        for name, values in [*((e.name, e.values) for e in self.classes), ("void", self.void)]:
            for value in values:
                if value in name_of:
                    owners = f"both {name_of[value]!r} and {name!r}" if name_of[value] != name else f"{name!r} twice"
                    raise ValueError(f"value {value} belongs to {owners}")
                name_of[value] = name
        if len({isinstance(value, str) for value in name_of}) > 1:
            three = next((e for e in self.classes if len(e.values) == 3 and isinstance(e.values[0], int)), None)
            hint = f"; is values of {three.name!r} a colour? Write [{three.values}]" if three is not None else ""
            raise ValueError(f"give numbers or colours for all classes and void, not some of each{hint}")
        if self.rest not in (None, VOID, NEAREST, *names):
            raise ValueError(f"rest: {self.rest!r} is neither {VOID} nor {NEAREST} nor the name of a class")
        return self

    def first_values(self) -> tuple[int | str, ...] | None:
        """The first value of each class; None where a class has none."""
        void = [*self.void, "#000000" if self.coloured else LAST]
        values = [void if entry.name == HOLE else entry.values for entry in self.classes]
        return tuple(own[0] for own in values) if all(values) else None

    @property
    def coloured(self) -> bool:
        """Whether the masks hold colours, not numbers."""
        return any(isinstance(value, str) for entry in self.classes for value in entry.values)

    def numbered(self) -> ClassesFile:
        """Itself; of more than 255 classes with the number 255, which is void inside, left to no class."""
        if len(self.classes) <= IGNORE_INDEX:
            return self
        hole = ClassEntry.model_construct(name=HOLE, values=[], colour=(0, 0, 0))
        entries = [*self.classes[:IGNORE_INDEX], hole, *self.classes[IGNORE_INDEX:]]
        return self.model_copy(update={"classes": entries})

    def label_map(self, numbers: Mapping[str, int] | None = None) -> LabelMap:
        """What the values in the masks mean.

        Args:
            numbers: name of a label to its number, where masks are drawn from named shapes.
        """
        coloured = self.coloured
        lookup = {} if coloured or numbers is not None else {IGNORE_INDEX: IGNORE_INDEX}
        lookup |= {_key(value): IGNORE_INDEX for value in self.void}
        for index, entry in enumerate(self.classes):
            lookup |= {_key(value): index for value in entry.values}
        palette = default_colours(len(self.classes))
        colours = []
        for entry, fallback in zip(self.classes, palette, strict=True):
            own = int(str(entry.values[0])[1:], 16) if coloured and entry.values else None
            stored = fallback if own is None else (own >> 16, own >> 8 & 255, own & 255)
            colours.append(entry.colour or stored)
        names = tuple(e.name for e in self.classes)
        rest = {None: None, NEAREST: None, VOID: IGNORE_INDEX}.get(self.rest, -1)
        by_convention = not self.void and self.rest is None and lookup.get(IGNORE_INDEX) == IGNORE_INDEX
        return LabelMap(
            ClassTable(names, tuple(colours), self.first_values() if numbers is None else None),
            lookup,
            coloured,
            assumes_void=by_convention and not coloured,
            rest=names.index(str(self.rest)) if rest == -1 else rest,
            nearest=self.rest == NEAREST,
            words={number: name for name, number in (numbers or {}).items()},
        )


def _key(value: int | str) -> int:
    return int(value[1:], 16) if isinstance(value, str) else value


@dataclass(frozen=True)
class Classes:
    """A read ``classes.yaml``: the label map, the split it asks for, and where it lies."""

    labels: LabelMap
    split: SplitConfig | None
    path: Path


def usual_classes(root: Path) -> Path:
    """Where the ``classes.yaml`` of a folder lies, or of an archive: ``x.classes.yaml`` beside ``x.zip``."""
    return root.with_suffix(".classes.yaml") if root.suffix.lower() in ARCHIVES else root / "classes.yaml"


def find_classes(name: Path | None, root: Path) -> Path:
    """The ``classes.yaml`` to use: a file, the name of a shipped example, or the one in ``root``.

    Raises:
        DataError: if there is none.
    """
    if name is None:
        path = usual_classes(root)
        if not path.is_file():
            raise DataError(
                f"{path}: no such file; `segproto data init {root}` writes it from what the masks hold, or write it "
                f"({_SCHEMA}), or set data.classes=FILE"
            )
        return path
    shipped = {file.stem: file for file in EXAMPLES.glob("*.yaml")}
    if str(name) in shipped and not name.is_file():
        return shipped[str(name)]
    if not name.is_file():
        raise DataError(f"data.classes={name} is no file and none of the shipped tables ({', '.join(sorted(shipped))})")
    return name


def read_classes(path: Path, numbers: Mapping[str, int] | None = None) -> Classes:
    """Reads and checks a ``classes.yaml``.

    Args:
        path: the file.
        numbers: name of a label to its number, where masks are drawn from named shapes.

    Raises:
        DataError: in one line: the file, the key and what was expected.
    """
    from segproto.files.reading import read_text
    from segproto.files.yaml_text import LIMIT, parse_yaml

    text = read_text(path, DataError, LIMIT, "YAML file")
    try:
        content = parse_yaml(text, path, DataError)
    except DataError as error:
        if not re.search(r"[:,\[]\s*#[0-9a-fA-F]{6}", text):
            raise
        raise DataError(f'{error}; a # that is not quoted begins a comment: quote colours, "#00ff00"') from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected {_SCHEMA}")
    try:
        file = ClassesFile.model_validate(content, context=None if numbers is None else {NAMES: numbers})
    except ValidationError as error:
        raise DataError(f"{path}: {_first_error(error)}") from None
    return Classes(file.numbered().label_map(numbers), file.split, path)


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
