"""labelme: one JSON per image, with polygons, boxes, circles and masks."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
from pydantic import BaseModel

from segproto.data.layouts.annotated import Annotated, Images, finding_of, missing_note, numbered, require_images
from segproto.data.layouts.finding import Finding, Layout
from segproto.data.layouts.listing import Listing
from segproto.data.layouts.shapes import Bitmap, Polygon, Shape, box, ellipse
from segproto.errors import DataError
from segproto.files.documents import checked

DRAWN = ("polygon", "rectangle", "circle", "mask")


class Drawing(BaseModel):
    """A shape."""

    label: str
    points: list[tuple[float, float]]
    shape_type: str | None = "polygon"
    mask: str | None = None


class LabelmeFile(BaseModel):
    """The file; the picture that it may hold itself is not read."""

    shapes: list[Drawing]
    imagePath: str = ""
    imageHeight: int | None = None
    imageWidth: int | None = None


def look_labelme(listing: Listing) -> Finding | None:
    """All JSON files of labelme in a listing.

    Raises:
        DataError: one is damaged, or no image is there.
    """
    names = listing.json_with("shapes", "imagePath")
    if not names:
        return None
    files = {name: checked(listing.json(name), LabelmeFile, listing.files[name]) for name in names}
    numbers = numbered(sorted({s.label for file in files.values() for s in file.shapes if s.shape_type in DRAWN}))
    images, annotated, missing = Images(listing), [], []
    for name, file in files.items():
        path = _beside(images, name) or images.find(file.imagePath, name)
        if path is None:
            missing.append(file.imagePath or name)
            continue
        size = None if not file.imageHeight or not file.imageWidth else (file.imageHeight, file.imageWidth)
        try:
            annotated.append(Annotated(path, name, list(_shapes(file, numbers)), size))
        except (ValueError, binascii.Error) as error:
            raise DataError(f"{listing.files[name]}: a shape cannot be read ({error})") from error
    require_images(annotated, missing, listing.files[names[0]])
    notes = missing_note(missing, f"{len(names)} JSON files")
    left = sum(shape.shape_type not in DRAWN for file in files.values() for shape in file.shapes)
    if left:
        notes.append(f"{left} lines and points, which have no area, are left out")
    return finding_of("labelme", listing, images, annotated, numbers, f"shapes of {len(names)} JSON files", notes)


def _beside(images: Images, name: str) -> str | None:
    """The image of the same name in the same folder."""
    return images.by_stem.get(str(PurePosixPath(name).with_suffix("")))


def _shapes(file: LabelmeFile, numbers: dict[str, int]) -> Iterator[Shape]:
    """The shapes in their order.

    Raises:
        ValueError: too few points for its kind, or a mask that is no picture in base64.
    """
    for shape in file.shapes:
        if shape.shape_type not in DRAWN:
            continue
        number, points = numbers[shape.label], np.array(shape.points, np.float64).reshape(-1, 2)
        if shape.shape_type != "polygon" and len(points) < 2:
            raise ValueError(f"a {shape.shape_type} of {len(points)} points")
        if shape.shape_type == "rectangle":
            yield Polygon(number, (box(*points[0], *points[1]),))
        elif shape.shape_type == "circle":
            radius = float(np.hypot(*(points[1] - points[0])))
            yield Polygon(number, (ellipse(float(points[0][0]), float(points[0][1]), radius, radius),))
        elif shape.shape_type == "mask":
            corner = points.min(0).round().astype(int)
            yield Bitmap(number, base64.b64decode(shape.mask or "", validate=True), int(corner[0]), int(corner[1]))
        else:
            yield Polygon(number, (points,))


LABELME = Layout(name="labelme", title="labelme: one JSON per image", looks=look_labelme)
