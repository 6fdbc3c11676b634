"""CVAT for images 1.1: one ``annotations.xml`` with polygons, boxes, ellipses and masks."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

import numpy as np

from segproto.data.layouts.annotated import (
    Annotated,
    Images,
    finding_of,
    missing_note,
    numbered,
    require_images,
    split_of_path,
)
from segproto.data.layouts.finding import Finding, Layout
from segproto.data.layouts.listing import Listing
from segproto.data.layouts.shapes import Polygon, Runs, Shape, box, ellipse
from segproto.data.layouts.words import split_of
from segproto.errors import DataError

DRAWN = ("polygon", "box", "ellipse", "mask")


def look_cvat(listing: Listing) -> Finding | None:
    """The annotation files of a listing.

    Raises:
        DataError: one is damaged, of a video, or no image it names is there.
    """
    names = [name for name in listing.ending(".xml") if "<annotations" in listing.text(name)[:2000]]
    if not names:
        return None
    roots = {name: _parsed(listing, name) for name in names}
    labels = [(node.text or "").strip() for root in roots.values() for node in root.iterfind(".//labels/label/name")]
    used = [node.get("label", "") for root in roots.values() for node in root.iterfind("image/*") if node.tag in DRAWN]
    numbers = numbered([*labels, *used])
    images, annotated, notes, left = Images(listing), [], [], 0
    for name, root in roots.items():
        missing = []
        for node in root.iterfind("image"):
            word = node.get("subset", "")
            split = (split_of(word), word) if split_of(word) else split_of_path(name)
            path = images.find(node.get("name", ""), name, split[0])
            if path is None:
                missing.append(node.get("name", ""))
                continue
            try:
                shapes = list(_shapes(node, numbers))
                size = (int(node.get("height", "")), int(node.get("width", "")))
            except (ValueError, TypeError) as error:
                raise DataError(f"{listing.files[name]}: image {node.get('name')!r}: {error}") from error
            left += sum(child.tag not in (*DRAWN, "tag") for child in node)
            annotated.append(Annotated(path, name, shapes, size, split))
        require_images(annotated, missing, listing.files[name])
        notes += missing_note(missing, name)
    if left:
        notes.append(f"{left} lines, points and other shapes without an area are left out")
    return finding_of("cvat", listing, images, annotated, numbers, f"shapes of {' and '.join(names)}", notes)


def _parsed(listing: Listing, name: str) -> ElementTree.Element:
    text, file = listing.text(name), listing.files[name]
    if "<!" in text.replace("<!--", ""):
        raise DataError(f"{file}: declares entities or a document type, which CVAT never does; not read")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as XML ({error})") from error
    if root.find("track") is not None:
        raise DataError(f"{file}: tracks of a video; export the task as 'CVAT for images 1.1' or as COCO")
    return root


def _shapes(image: ElementTree.Element, numbers: dict[str, int]) -> Iterator[Shape]:
    """The shapes of an image, the lowest first.

    Raises:
        ValueError: coordinates that are no numbers.
    """
    for node in sorted((n for n in image if n.tag in DRAWN), key=lambda node: int(node.get("z_order", "0"))):
        number = numbers[node.get("label", "")]
        if node.tag == "polygon":
            points = [[float(v) for v in pair.split(",")] for pair in node.get("points", "").split(";") if pair]
            yield Polygon(number, (np.array(points, np.float64).reshape(-1, 2),))
        elif node.tag == "box":
            yield Polygon(number, (box(*(float(node.get(key, "")) for key in ("xtl", "ytl", "xbr", "ybr"))),))
        elif node.tag == "ellipse":
            x, y, across, down = (float(node.get(key, "")) for key in ("cx", "cy", "rx", "ry"))
            yield Polygon(number, (ellipse(x, y, across, down, float(node.get("rotation", "0"))),))
        else:
            left, top, width, height = (int(node.get(key, "")) for key in ("left", "top", "width", "height"))
            lengths = np.array([int(v) for v in node.get("rle", "").split(",") if v.strip()], np.int64)
            yield Runs(number, lengths, by_columns=False, box=(left, top, width, height))


CVAT = Layout(name="cvat", title="CVAT for images 1.1: annotations.xml with polygons and masks", looks=look_cvat)
