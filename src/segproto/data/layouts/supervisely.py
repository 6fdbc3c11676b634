"""Supervisely: ``meta.json``, and in each data set ``img/`` and ``ann/`` with one JSON per image."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
from pydantic import BaseModel

from segproto.data.layouts.annotated import Annotated, Images, finding_of, missing_note, numbered, require_images
from segproto.data.layouts.finding import Finding, Layout
from segproto.data.layouts.listing import Listing
from segproto.data.layouts.shapes import Bitmap, Polygon, Shape, box
from segproto.errors import DataError
from segproto.files.documents import checked

DRAWN = ("polygon", "bitmap", "rectangle")
MOST_BITMAP = 2**28  # bytes of one, unpacked


class Corners(BaseModel):
    """A polygon and its holes, or the two corners of a rectangle."""

    exterior: list[tuple[float, float]] = []
    interior: list[list[tuple[float, float]]] = []


class Packed(BaseModel):
    """A PNG, packed by zlib, in base64, and where it lies."""

    data: str
    origin: tuple[int, int]


class Object(BaseModel):
    """A shape."""

    classTitle: str
    geometryType: str = "polygon"
    points: Corners = Corners()
    bitmap: Packed | None = None


class Size(BaseModel):
    """Of the image."""

    height: int
    width: int


class Annotation(BaseModel):
    """The file of one image."""

    size: Size
    objects: list[Object]


class ClassMeta(BaseModel):
    """A class."""

    title: str


class Meta(BaseModel):
    """``meta.json``."""

    classes: list[ClassMeta]


def look_supervisely(listing: Listing) -> Finding | None:
    """A project of Supervisely, or what is left of one.

    Raises:
        DataError: a file is damaged, or no image is there.
    """
    names = [name for name in listing.json_with("objects") if PurePosixPath(name).parent.name == "ann"]
    if not names:
        return None
    files = {name: checked(listing.json(name), Annotation, listing.files[name]) for name in names}
    metas = [name for name in listing.json_with("classes") if PurePosixPath(name).name == "meta.json"]
    labels = [c.title for name in metas[:1] for c in checked(listing.json(name), Meta, listing.files[name]).classes]
    used = sorted({entry.classTitle for file in files.values() for entry in file.objects})
    numbers = numbered([*labels, *used])
    images, annotated, missing = Images(listing), [], []
    for name, file in files.items():
        annotation = PurePosixPath(name)
        path = images.find(f"../img/{annotation.stem}", name) or images.find(annotation.stem, name)
        picture = str(annotation.parent.parent / "img" / annotation.stem)
        path = picture if picture in images.files else path
        if path is None:
            missing.append(annotation.stem)
            continue
        try:
            shapes = list(_shapes(file, numbers))
        except (ValueError, binascii.Error, zlib.error) as error:
            raise DataError(f"{listing.files[name]}: a shape cannot be read ({error})") from error
        annotated.append(Annotated(path, name, shapes, (file.size.height, file.size.width)))
    require_images(annotated, missing, listing.files[names[0]])
    notes = missing_note(missing, f"{len(names)} JSON files")
    left = sum(entry.geometryType not in DRAWN for file in files.values() for entry in file.objects)
    if left:
        notes.append(f"{left} lines, points and other shapes without an area are left out")
    return finding_of("supervisely", listing, images, annotated, numbers, f"shapes of {len(names)} JSON files", notes)


def _shapes(file: Annotation, numbers: dict[str, int]) -> Iterator[Shape]:
    """The shapes in their order.

    Raises:
        ValueError: too few corners, or a bitmap that is too large or broken.
    """
    for entry in file.objects:
        number = numbers[entry.classTitle]
        rings = [np.array(ring, np.float64).reshape(-1, 2) for ring in (entry.points.exterior, *entry.points.interior)]
        if entry.geometryType == "polygon":
            yield Polygon(number, tuple(rings))
        elif entry.geometryType == "rectangle" and len(rings[0]) >= 2:
            yield Polygon(number, (box(*rings[0][0], *rings[0][1]),))
        elif entry.geometryType == "bitmap" and entry.bitmap is not None:
            unpacked = zlib.decompressobj().decompress(base64.b64decode(entry.bitmap.data, validate=True), MOST_BITMAP)
            yield Bitmap(number, unpacked, *entry.bitmap.origin)


SUPERVISELY = Layout(name="supervisely", title="Supervisely: img/ and ann/ with meta.json", looks=look_supervisely)
