"""Label Studio: its JSON with brushes (run lengths of its own) and polygons, or brush masks as PNG beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError

from segproto.data.layouts.annotated import Annotated, Images, finding_of, missing_note, numbered, require_images, shown
from segproto.data.layouts.finding import Finding, Layout
from segproto.data.layouts.listing import Listing
from segproto.data.layouts.shapes import Brush, Layer, Polygon, Shape, box, ellipse
from segproto.data.suffixes import IMAGE_SUFFIXES
from segproto.errors import DataError

PNG = re.compile(r"task-(\d+)-annotation-(\d+)-by-.*-tag-(.+)-(\d+)\.png")
KINDS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels")
UPLOAD = re.compile(r"[0-9a-f]{8}-")  # what it puts before the names of uploaded files


class Result(BaseModel):
    """A region."""

    type: str
    value: dict[str, Any] = {}
    original_width: int = 0
    original_height: int = 0


class Annotation(BaseModel):
    """What one person drew."""

    result: list[Result] = []
    was_cancelled: bool = False
    ground_truth: bool = False
    updated_at: str = ""


class Task(BaseModel):
    """An image."""

    id: int
    data: dict[str, Any]
    annotations: list[Annotation] = []
    file_upload: str | None = None


TASKS = TypeAdapter(list[Task])


def look_label_studio(listing: Listing) -> Finding | None:
    """The JSON export of a listing, with PNG masks beside it or without.

    Raises:
        DataError: PNG masks without the JSON that tells their images, or a damaged file.
    """
    layers = [(name, match) for name in listing.ending(".png") if (match := PNG.fullmatch(PurePosixPath(name).name))]
    names = [name for name in listing.json_with("annotations", "result") if listing.text(name).lstrip().startswith("[")]
    if not names:
        if layers:
            raise DataError(
                f"{listing.root}: {layers[0][0]} and {len(layers) - 1} others are brush masks of Label Studio, which "
                "tell the number of the task and not the image; put the JSON export of the same project beside them"
            )
        return None
    tasks = [(name, task) for name in names for task in _tasks(listing, name)]
    labels = [match[3] for _, match in layers]
    labels += [label for _, task in tasks for region in _regions(task) for label in _labels(region)]
    numbers = numbered(sorted(set(labels)))
    images, annotated, missing, empty, several = Images(listing), [], [], 0, 0
    of_task: dict[int, list[tuple[str, re.Match[str]]]] = {}
    for path, match in layers:
        of_task.setdefault(int(match[1]), []).append((path, match))
    for name, task in tasks:
        mine = of_task.get(task.id, [])
        if not mine and not any(not a.was_cancelled for a in task.annotations):
            empty += 1
            continue
        told_name = _image_name(task)
        image = images.find(told_name, name) or images.find(
            UPLOAD.sub("", PurePosixPath(told_name).name, count=1), name
        )
        if image is None:
            missing.append(told_name)
            continue
        several += sum(not a.was_cancelled for a in task.annotations) > 1
        shapes: list[Shape] = [Layer(numbers[match[3]], listing.files[layer]) for layer, match in _first(mine)]
        shapes = shapes or list(_shapes(task, numbers, str(listing.files[name])))
        annotated.append(Annotated(image, name, shapes, _size(task)))
    require_images(annotated, missing, listing.files[names[0]])
    notes = missing_note(missing, names[0])
    if empty:
        notes.append(f"{empty} tasks have no annotation and are left out")
    if several:
        notes.append(f"{several} tasks have several annotations: one marked as ground truth counts, else the newest")
    kind = "brush masks (PNG)" if layers else "brushes and polygons"
    return finding_of("label_studio", listing, images, annotated, numbers, f"{kind} of {shown(names)}", notes)


def _tasks(listing: Listing, name: str) -> list[Task]:
    try:
        return TASKS.validate_python(listing.json(name))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(f"{listing.files[name]}: no JSON export of Label Studio: {key}: {first['msg']}") from None


def _chosen(task: Task) -> Annotation | None:
    kept = [annotation for annotation in task.annotations if not annotation.was_cancelled]
    return max(kept, key=lambda a: (a.ground_truth, a.updated_at), default=None)


def _regions(task: Task) -> list[Result]:
    chosen = _chosen(task)
    return [] if chosen is None else [region for region in chosen.result if region.type.lower() in KINDS]


def _labels(region: Result) -> list[str]:
    labels = region.value.get(region.type.lower()) or region.value.get(region.type)
    return [str(label) for label in labels[:1]] if isinstance(labels, list) else []


def _size(task: Task) -> tuple[int, int] | None:
    return next(((r.original_height, r.original_width) for r in _regions(task) if r.original_height), None)


def _image_name(task: Task) -> str:
    texts = [v for v in task.data.values() if isinstance(v, str)]
    pictures = [v for v in texts if PurePosixPath(v).suffix.lower() in IMAGE_SUFFIXES]
    return next(iter(pictures), task.file_upload or next(iter(texts), ""))


def _first(layers: Sequence[tuple[str, re.Match[str]]]) -> list[tuple[str, re.Match[str]]]:
    """The masks of the newest annotation of a task."""
    newest = max((int(match[2]) for _, match in layers), default=0)
    return [(path, match) for path, match in layers if int(match[2]) == newest]


def _shapes(task: Task, numbers: dict[str, int], source: str) -> Iterator[Shape]:
    """The regions of a task, in the order they were drawn in.

    Raises:
        DataError: naming the task: a region without what its type needs.
    """
    for region in _regions(task):
        labels, value = _labels(region), region.value
        if not labels:
            continue
        number = numbers[labels[0]]
        try:
            if "rle" in value:
                yield Brush(number, bytes(value["rle"]), (region.original_height, region.original_width))
            elif "points" in value:
                yield Polygon(number, (np.array(value["points"], np.float64).reshape(-1, 2) / 100,), unit=True)
            elif "radiusX" in value:
                yield _ellipse(number, region)
            else:
                yield _rectangle(number, region)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{source}: task {task.id}: a {region.type} region cannot be read ({error})") from error


def _ellipse(number: int, region: Result) -> Shape:
    x, y, across, down = (float(region.value[key]) / 100 for key in ("x", "y", "radiusX", "radiusY"))
    width, height = region.original_width, region.original_height
    turn = float(region.value.get("rotation", 0))
    return Polygon(number, (ellipse(x * width, y * height, across * width, down * height, turn),))


def _rectangle(number: int, region: Result) -> Shape:
    """A box, which may be turned about its upper left corner."""
    x, y, across, down = (float(region.value[key]) / 100 for key in ("x", "y", "width", "height"))
    scale = np.array([region.original_width, region.original_height], np.float64)
    turn = np.deg2rad(float(region.value.get("rotation", 0)))
    corners = box(0, 0, across, down) * scale
    turned = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return Polygon(number, (turned + np.array([x, y]) * scale,))


LABEL_STUDIO = Layout(
    name="label_studio",
    title="Label Studio: JSON with brushes or polygons, or brush masks as PNG",
    looks=look_label_studio,
)
