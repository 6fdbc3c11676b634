"""COCO's JSON: polygons and run lengths, plain and compressed; CVAT, Roboflow, Label Studio and others export it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

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
from segproto.data.layouts.run_lengths import unpack_coco
from segproto.data.layouts.shapes import Polygon, Runs, Shape
from segproto.errors import DataError
from segproto.files.documents import checked


class RunLengths(BaseModel):
    """``{"size": [H, W], "counts": [...] or "..."}``."""

    size: tuple[int, int]
    counts: list[int] | str


class Image(BaseModel):
    """An image."""

    id: int | str
    file_name: str
    height: int
    width: int


class Annotation(BaseModel):
    """An object."""

    image_id: int | str
    category_id: int
    segmentation: list[list[float]] | list[float] | RunLengths | None = None


class Category(BaseModel):
    """A class."""

    id: int
    name: str


class CocoFile(BaseModel):
    """The file, or what is read of it."""

    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]


def look_coco(listing: Listing) -> Finding | None:
    """All COCO files of a listing, one per split or one in all.

    Raises:
        DataError: one of them is damaged, or no image it names is there.
    """
    names = listing.json_with("images", "annotations", "categories")
    instances = [name for name in names if name.rpartition("/")[2].startswith("instances_")]
    files = {name: checked(listing.json(name), CocoFile, listing.files[name]) for name in instances or names}
    files = {name: file for name, file in files.items() if any(a.segmentation for a in file.annotations)}
    if not files:
        return None
    numbers = numbered(c.name for file in files.values() for c in sorted(file.categories, key=lambda c: c.id))
    images, annotated, notes = Images(listing), [], []
    for name, file in files.items():
        split, missing = split_of_path(name), []
        shapes = _shapes(file, numbers, listing.files[name])
        boxes = sum(not annotation.segmentation for annotation in file.annotations)
        if boxes:
            notes.append(f"{boxes} objects of {name} are boxes without a segmentation: left out")
        for image in file.images:
            path = images.find(image.file_name, name, split[0])
            if path is None:
                missing.append(image.file_name)
                continue
            size = (image.height, image.width)
            annotated.append(Annotated(path, name, shapes.get(image.id, ()), size, split))
        require_images(annotated, missing, listing.files[name])
        notes += missing_note(missing, name)
    words = f"polygons and run lengths of {' and '.join(files)}"
    return finding_of("coco", listing, images, annotated, numbers, words, notes)


def _shapes(file: CocoFile, numbers: dict[str, int], source: object) -> dict[int | str, list[Shape]]:
    """The shapes of each image by its id.

    Raises:
        DataError: a category that is not listed.
    """
    by_id = {category.id: numbers[category.name] for category in file.categories}
    shapes: dict[int | str, list[Shape]] = {}
    for annotation in file.annotations:
        if not annotation.segmentation:
            continue
        if annotation.category_id not in by_id:
            raise DataError(
                f"{source}: an annotation of category {annotation.category_id}, which is none of categories"
            )
        number = by_id[annotation.category_id]
        try:
            shapes.setdefault(annotation.image_id, []).extend(_of(annotation.segmentation, number))
        except ValueError as error:
            raise DataError(f"{source}: image {annotation.image_id}: {error}") from error
    return shapes


def _of(segmentation: Any, number: int) -> Sequence[Shape]:
    if isinstance(segmentation, RunLengths):
        counts = segmentation.counts
        lengths = unpack_coco(counts) if isinstance(counts, str) else np.array(counts, np.int64)
        return [Runs(number, lengths, by_columns=True, size=segmentation.size)]
    rings = [segmentation] if segmentation and not isinstance(segmentation[0], list) else segmentation
    if any(len(ring) % 2 for ring in rings):
        raise ValueError("a polygon with an odd number of coordinates")
    return [Polygon(number, (np.array(ring, np.float64).reshape(-1, 2),)) for ring in rings if len(ring) >= 6]


COCO = Layout(name="coco", title="COCO's JSON with polygons or run lengths (CVAT, Roboflow ...)", looks=look_coco)
