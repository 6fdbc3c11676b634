"""YOLO segmentation (Ultralytics, Roboflow): a text file per image, a class number and a polygon per line."""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np

from segproto.data.layouts.annotated import Annotated, Images, finding_of, numbered
from segproto.data.layouts.finding import Finding, Layout
from segproto.data.layouts.listing import Listing
from segproto.data.layouts.shapes import Polygon, Shape
from segproto.data.layouts.words import IMAGE, MASK, role_of
from segproto.errors import DataError
from segproto.files.yaml_text import parse_yaml

BOX = 5  # numbers of a line that is a box: class, centre, width, height


def look_yolo(listing: Listing) -> Finding | None:
    """The text files of polygons in a listing, and the names of ``data.yaml``.

    Raises:
        DataError: a line is no polygon, or a class has no name in ``data.yaml``.
    """
    images = Images(listing)
    texts = {name: path for path in images.files if (name := _text_of(listing, path)) is not None}
    lines = {name: _lines(listing.text(name)) for name in texts}
    if not any(row for rows in lines.values() for row in rows) or not all(
        row is not None for rows in lines.values() for row in rows
    ):
        return None
    kinds = {len(row) > BOX for rows in lines.values() for row in rows if row is not None}
    if True not in kinds:
        return None  # boxes alone: data for detection
    known = _names(listing)
    used = sorted({int(row[0]) for rows in lines.values() for row in rows if row is not None})
    names = {**{value: str(value) for value in used}, **known}
    numbers = numbered(names[value] for value in sorted(names))
    annotated, boxes = [], 0
    for name, path in texts.items():
        shapes: list[Shape] = []
        for line, row in enumerate(lines[name], 1):
            if row is None or len(row) == BOX:
                boxes += 1
                continue
            if len(row) % 2 == 0 or len(row) < 7:
                raise DataError(
                    f"{listing.files[name]}, line {line}: {len(row)} numbers; expected a class and x, y pairs"
                )
            if known and int(row[0]) not in known:
                raise DataError(f"{listing.files[name]}, line {line}: class {int(row[0])} has no name in data.yaml")
            shapes.append(Polygon(numbers[names[int(row[0])]], (np.array(row[1:]).reshape(-1, 2),), unit=True))
        annotated.append(Annotated(path, name, shapes))
    notes = [f"{boxes} lines are boxes, not polygons: left out"] if boxes else []
    if not known:
        notes.append("no data.yaml names the classes: labels are their numbers")
    return finding_of("yolo", listing, images, annotated, numbers, f"polygons of {len(texts)} text files", notes)


def boxes_alone(listing: Listing) -> str:
    """What is missing where all text files of images hold boxes, as exports for detection do."""
    texts = {name for path in Images(listing).files if (name := _text_of(listing, path)) is not None}
    rows = [row for name in texts for row in _lines(listing.text(name))]
    if not rows or not all(row is not None and len(row) == BOX for row in rows):
        return ""
    return (
        f"{len(texts)} text files (such as {min(texts)}) hold boxes, as YOLO has them for detection, and boxes are no "
        "masks: export polygons (YOLO segmentation, COCO), or draw masks of the boxes first"
    )


def _text_of(listing: Listing, image: str) -> str | None:
    """The text file of an image: beside it, or in ``labels`` where it lies in ``images``."""
    path = PurePosixPath(image).with_suffix(".txt")
    parts = list(path.parts)
    places = [str(path)]
    for line in range(len(parts) - 2, -1, -1):
        if role_of(parts[line]) == IMAGE:
            for word in ("labels", "label", "annotations", "masks"):
                assert role_of(word) == MASK
                places.append("/".join([*parts[:line], word, *parts[line + 1 :]]))
    return next((line for line in places if line in listing.files), None)


def _lines(text: str) -> list[list[float] | None]:
    """The numbers of each line; None for a line of anything else."""
    rows: list[list[float] | None] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            row = [float(cell) for cell in line.split()]
        except ValueError:
            row = []
        rows.append(row if len(row) >= BOX and row[0] == int(row[0]) >= 0 else None)
    return rows


def _names(listing: Listing) -> dict[int, str]:
    """Class numbers to names, of the first YAML file with ``names``.

    Raises:
        DataError: the file is no YAML.
    """
    for name in sorted(listing.ending(".yaml", ".yml"), key=lambda name: name.count("/")):
        if PurePosixPath(name).name == "classes.yaml":
            continue
        content = parse_yaml(listing.text(name), listing.files[name], DataError)
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, list):
            return {number: str(text) for number, text in enumerate(names)}
        if isinstance(names, dict):
            return {int(number): str(text) for number, text in names.items() if str(number).isdigit()}
    return {}


YOLO = Layout(
    name="yolo", title="YOLO segmentation: text files of polygons, data.yaml", looks=look_yolo, lacks=boxes_alone
)
