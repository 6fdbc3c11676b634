"""Image-level labels: which classes an image shows, from a table of tags or from its mask."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from segproto.data.base import ClassTable, SegmentationDataset
from segproto.data.published_tags import read_annotations, read_label_vectors
from segproto.data.suffixes import IMAGE_SUFFIXES
from segproto.errors import DataError
from segproto.files.reading import read_text
from segproto.prototypes.labels import IGNORE_INDEX

BACKGROUND = 0


def read_tags(path: Path, classes: ClassTable, names: Sequence[str], former: Mapping[str, int] | None = None) -> Tensor:
    """Tags of images from a CSV, a published ``cls_labels.npy``, or a folder of VOC's XML annotations.

    A line of the CSV: the image's name (its suffix may be left out), then tags, by commas, ``;`` or ``|``.

    A first line that begins with ``image`` or ``name`` is a heading. Class 0 is the background; only an image that
    shows nothing else needs its name as a tag.

    Args:
        path: the file, UTF-8; ``.npy``: see :func:`~segproto.data.published_tags.read_label_vectors`; a folder: see
            :func:`~segproto.data.published_tags.read_annotations`.
        classes: what a tag may be.
        names: the images whose tags are wanted.
        former: classes before they were merged or renamed, in order, and the number each has now
            (:attr:`~segproto.data.base.SegmentationDataset.former_classes`): tags may name these, too, and label
            vectors are as long as they are many.

    Returns:
        (N, C) float32, 1 for each class an image shows; the background's column is 1.

    Raises:
        DataError: the file cannot be read, a tag is no class, an image has two lines, no line or no tag.
    """
    numbers = {**(former or {}), **{name: number for number, name in enumerate(classes.names)}}
    if path.is_dir():
        return _table(read_annotations(path, numbers, names), classes.num_classes)
    if path.suffix == ".npy":
        order = list((former or numbers).values())
        return _table(read_label_vectors(path, order[1:], names), classes.num_classes)
    try:
        text = io.StringIO(read_text(path, what="CSV of tags"), newline="")
        lines = [(n, row) for n, row in enumerate(csv.reader(text), 1) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"{path}: the tags cannot be read ({error}); expected a CSV: image name, then tags") from error
    if lines and lines[0][1][0].strip().lower() in {"image", "name", "file", "filename"}:
        lines = lines[1:]
    tags: dict[str, list[int]] = {}
    expected = set(names)
    for number, row in lines:
        image = row[0].strip()
        for name in {image, _stem(image)} if image else set():
            if name in tags:
                raise DataError(f"{path}, line {number}: {image!r} has tags twice; keep one line per image")
            tags[name] = [_class_of(tag, numbers, path, number) for tag in _split(row[1:], numbers)]
            if not tags[name] and name in expected:
                raise DataError(
                    f"{path}, line {number}: {image!r} has no tag; give it one ({classes.names[BACKGROUND]!r} if it "
                    "shows nothing else), or leave the image out of the data"
                )
    missing = [name for name in names if name not in tags]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(names)} images have no line, first {missing[0]!r}; add them, as in: "
            f"{missing[0]},{classes.names[-1]}"
        )
    return _table([tags[name] for name in names], classes.num_classes)


def tags_of_masks(dataset: SegmentationDataset) -> Tensor:
    """(N, C) float32: the classes in each mask, and 1 for the background; read once, for data that has masks.

    Raises:
        DataError: a mask that is void everywhere, which tells no tag.
    """
    rows = []
    for index, name in enumerate(dataset.names):
        mask = dataset[index].mask.flatten().long()
        rows.append(mask[mask != IGNORE_INDEX].unique().tolist())  # type: ignore[no-untyped-call]
        if not rows[-1]:
            raise DataError(
                f"{dataset.path(index) or name}: its mask is void everywhere, so the image has no tag; set "
                "tags=FILE.csv, or leave the image out of the data"
            )
    return _table(rows, dataset.classes.num_classes)


def _stem(image: str) -> str:
    """A name without the suffix of an image file; what follows another dot belongs to the name."""
    path = PurePosixPath(image)
    return str(path.with_suffix("")) if path.suffix.lower() in IMAGE_SUFFIXES else image


def _table(rows: list[list[int]], count: int) -> Tensor:
    table = torch.zeros(len(rows), count)
    for row, own in zip(table, rows, strict=True):
        row[[BACKGROUND, *own]] = 1
    return table


def _split(cells: list[str], known: Mapping[str, int]) -> list[str]:
    """The tags in the cells of a line; a quoted cell may hold commas, between tags or in the name of a class."""
    parts = [[cell] if cell.strip() in known else re.split(r"[;|,]", cell) for cell in cells]
    return [tag.strip() for part in parts for tag in part if tag.strip()]


def _class_of(tag: str, known: Mapping[str, int], path: Path, number: int) -> int:
    if tag in known:
        return known[tag]
    near = [n for n in known if n.lower() == tag.lower()] or get_close_matches(tag, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else f" (classes: {', '.join(known)})"
    raise DataError(f"{path}, line {number}: the tag {tag!r} is no class{hint}")
