"""Image-level labels as Pascal VOC's users publish them: a pickled dict of label vectors, or VOC's XML annotations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from segproto import foreign
from segproto.errors import DataError, WeightsError
from segproto.files.reading import read_text

VOC_NAME = re.compile(r"(\d{4})_(\d{6})")


def read_label_vectors(path: Path, numbers: Sequence[int], names: Sequence[str]) -> list[list[int]]:
    """``cls_labels.npy``: a dict of image name (or IRN's number: 2007000032) to a 0/1 vector of the foreground classes.

    Nothing in the file is run.

    Args:
        path: the file.
        numbers: of the class that each place in a vector stands for; the background has none.
        names: the images wanted; of a path in a folder the last part counts.

    Returns:
        The classes of each image; none of one that shows the background alone.

    Raises:
        DataError: no such file or another kind; an image without an entry; a vector of another length.
    """
    try:
        table = foreign.read_npy_dict(path)
    except WeightsError as error:
        raise DataError(str(error)) from error
    missing = [name for name in names if _entry(table, name) is None]
    if missing:
        raise DataError(f"{path}: {len(missing)} of {len(names)} images have no entry, first {missing[0]!r}")
    return [_classes(path, name, _entry(table, name), numbers) for name in names]


def _entry(table: Mapping[Any, Any], name: str) -> Any:
    last = PurePosixPath(name).name
    if last in table:
        return table[last]
    match = VOC_NAME.fullmatch(last)
    return table.get(int(match[1] + match[2])) if match else None


def _classes(path: Path, name: str, vector: Any, numbers: Sequence[int]) -> list[int]:
    count = len(numbers)
    if not isinstance(vector, np.ndarray) or vector.shape != (count,) or not np.isin(vector, (0, 1)).all():
        kind = f"shape {vector.shape}" if isinstance(vector, np.ndarray) else type(vector).__name__
        raise DataError(f"{path}: the entry of {name!r} has {kind}; expected {count} numbers 0 or 1, one per class")
    return [numbers[int(c)] for c in np.flatnonzero(vector)]


def read_annotations(folder: Path, numbers: Mapping[str, int], names: Sequence[str]) -> list[list[int]]:
    """VOC's ``Annotations``: the classes of all objects of ``NAME.xml``, those marked difficult too, as published.

    Args:
        folder: with one file per image.
        numbers: what an object may be, and the number of its class.
        names: the images wanted; of a path in a folder the last part counts.

    Returns:
        The classes of each image, ascending; none of one without an object, which shows the background alone.

    Raises:
        DataError: a file is missing or damaged, or an object is of no class.
    """
    rows = []
    for name in names:
        path = folder / f"{PurePosixPath(name).name}.xml"
        objects = _object_names(path)
        unknown = [o for o in objects if o not in numbers]
        if unknown:
            raise DataError(f"{path}: the object {unknown[0]!r} is no class (classes: {', '.join(numbers)})")
        rows.append(sorted({numbers[o] for o in objects}))
    return rows


def _object_names(path: Path) -> list[str]:
    try:
        text = read_text(path, what="annotation")
        if "<!" in text.replace("<!--", ""):
            raise DataError(f"{path}: declares entities or a document type, which VOC's annotations never do; not read")
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: the annotation cannot be read ({error})") from error
    return [(node.text or "").strip() for node in root.iterfind("object/name")]
