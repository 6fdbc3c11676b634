"""Masks of TIFF stacks: as many pages as the image has."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from segproto.data.images import MAX_PIXELS
from segproto.data.tiff_bands import TiffBands
from segproto.data.tiff_pages import Page, pages_of
from segproto.errors import ConfigError
from segproto.files import disk_errors, fresh, mark, scratch
from segproto.model.outputs import Values, value_table
from segproto.model.predict import Views, predict
from segproto.model.segmenter import Segmenter
from segproto.prototypes.labels import IGNORE_INDEX

WRITTEN: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib", "contiguous": False, "metadata": None}


def predict_to_stack(
    segmenter: Segmenter,
    image: Path,
    out: Path,
    *,
    values: Values = "indices",
    max_pixels: int = MAX_PIXELS,
    **views: Unpack[Views],
) -> None:
    """Writes a TIFF with a mask for each page, 8 bits (16 if need be), one page after the other.

    A page that says where it lies on the earth gives its place to its mask.

    Args:
        segmenter: the model.
        image: a TIFF of several pages.
        out: the file.
        values: what the masks hold, see :class:`segproto.model.outputs.Outputs`.
        max_pixels: larger pages are refused.
        views: as :func:`segproto.model.predict.predict`.

    Raises:
        ConfigError: the model's masks held colours.
    """
    from tifffile import TiffWriter

    table = value_table(segmenter.classes, values)
    if table is not None and table.ndim == 2:
        raise ConfigError("--values classes: the masks held colours, which stacks do not: --format png")
    largest = segmenter.head.num_classes if table is None else int(table.max())
    dtype = np.uint8 if largest <= IGNORE_INDEX else np.uint16
    with disk_errors(out), scratch(out.parent) as folder:  # tifffile wants a file with a name
        with TiffWriter(folder / "stack.tif") as stack:
            for number in range(1, pages_of(image) + 1):
                labels = predict(segmenter, Page(image, number), max_pixels=max_pixels, **views)
                numbers = (labels if table is None else table[labels.long()]).numpy().astype(dtype)
                stack.write(numbers, **WRITTEN, extratags=TiffBands(image, number).place())
        with fresh(out, "mask") as file, (folder / "stack.tif").open("rb") as made:
            shutil.copyfileobj(made, file)
            file.write(mark("mask").encode())  # where it is looked for
