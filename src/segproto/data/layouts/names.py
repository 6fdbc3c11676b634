"""What the classes are called, from a file that tools put beside images: ``labelmap.txt``, ``_classes.csv`` ..."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from segproto.data.layouts.finding import NamedValue
from segproto.data.layouts.listing import Listing
from segproto.errors import DataError


def read_names(listing: Listing) -> tuple[list[NamedValue], str]:
    """The classes that the first such file names, and its path; nothing where there is none.

    Raises:
        DataError: it cannot be read.
    """
    for file, reader in READERS.items():
        for name in sorted(listing.files, key=lambda path: (path.count("/"), path)):
            if re.fullmatch(file, PurePosixPath(name).name, re.I) and (named := reader(listing, name)):
                return named, name
    return [], ""


def _labelmap(listing: Listing, name: str) -> list[NamedValue]:
    """CVAT's ``name:r,g,b:parts:actions``."""
    named = []
    for line in listing.text(name).splitlines():
        cells = line.split(":")
        if line.strip() and not line.startswith("#") and len(cells) >= 2:
            colour = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", cells[1])
            named.append(NamedValue(cells[0].strip(), None, _colour(*colour.groups()) if colour else None))
    return named


def _colour(red: Any, green: Any, blue: Any) -> int | None:
    values = [int(red), int(green), int(blue)]
    return values[0] << 16 | values[1] << 8 | values[2] if all(0 <= v < 256 for v in values) else None


def _table(listing: Listing, name: str) -> list[NamedValue]:
    """A CSV with a heading: Roboflow's ``Pixel Value, Class``, or ``name, r, g, b``."""
    rows = [[c.strip() for c in row] for row in csv.reader(io.StringIO(listing.text(name))) if any(row)]
    if len(rows) < 2:
        return []
    heads = {re.sub("[^a-z]", "", head.lower()): column for column, head in enumerate(rows[0])}
    label = next(
        (heads[h] for h in ("class", "name", "label", "classname", "category", "maskclasses") if h in heads), None
    )
    value = next((heads[h] for h in ("pixelvalue", "value", "id", "index", "classid", "image") if h in heads), None)
    rgb = next(
        ([heads[h] for h in hs] for hs in (("r", "g", "b"), ("red", "green", "blue")) if {*hs} <= {*heads}), None
    )
    if label is None or (value is None and rgb is None):
        return []
    named = []
    for row in rows[1:]:
        if len(row) < len(rows[0]):
            raise DataError(f"{listing.files[name]}: a line of {len(row)} cells, its heading has {len(rows[0])}")
        number = int(row[value]) if value is not None and row[value].isdigit() else None
        colour = _colour(*(row[c] for c in rgb)) if rgb and all(row[c].isdigit() for c in rgb) else None
        named.append(NamedValue(row[label], number, colour))
    return named


def _json_labels(listing: Listing, name: str) -> list[NamedValue]:
    """nnU-Net's ``dataset.json``, or ``{"0": "background"}`` either way round."""
    content = listing.json(name)
    labels = content.get("labels", content) if isinstance(content, dict) else None
    if not isinstance(labels, Mapping) or not labels:
        return []
    named = []
    for key, value in labels.items():
        number, text = (key, value) if str(key).isdigit() else (value, key)
        if not str(number).isdigit() or not isinstance(text, str):
            return []  # regions of nnU-Net and other things
        named.append(NamedValue(text, int(number)))
    return named


def _lines(listing: Listing, name: str) -> list[NamedValue]:
    """A name a line, in the order of the numbers; or CamVid's ``r g b name``."""
    lines = [line.strip() for line in listing.text(name).splitlines() if line.strip() and not line.startswith("#")]
    coloured = [re.fullmatch(r"(\d+)[ ,]+(\d+)[ ,]+(\d+)[\s,]+(\S.*)", line) for line in lines]
    if lines and all(coloured):
        return [NamedValue(named[4], None, _colour(*named.groups()[:3])) for named in coloured if named]
    numbered = [re.fullmatch(r"(\d+)\s*[:,=\t ]\s*(\S.*)", line) for line in lines]
    if lines and all(numbered):
        return [NamedValue(named[2], int(named[1])) for named in numbered if named]
    return [NamedValue(line, number) for number, line in enumerate(lines)] if len(lines) <= 1000 else []


READERS: dict[str, Callable[[Listing, str], list[NamedValue]]] = {
    r"label_?map\.txt": _labelmap,
    r"_classes\.csv": _table,
    r"dataset\.json": _json_labels,
    r"(id2label|label_map|labels?|classes|class_names)\.json": _json_labels,
    r"(class_?dict|class_?map|classes|labels|label_?colou?rs|.*class.*)\.csv": _table,
    r"(label_?colou?rs|colou?rs)\.txt": _lines,
    r"(classes|names|class_?names|labels?|label_?names|codes|categories)\.txt": _lines,
}
