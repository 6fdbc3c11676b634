"""What ``predict`` writes of an image, band by band and never held whole: its mask, a picture, probabilities."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Unpack, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segproto.data.base import ClassTable
from segproto.data.images import MAX_PIXELS
from segproto.data.overlay import colour_labels
from segproto.data.picture import ImageLike, MaskWriter, Picture, look_at
from segproto.data.pixels import to_colours
from segproto.errors import ConfigError
from segproto.files import fresh, mark
from segproto.files.stores import store_rows
from segproto.model.predict import Views, labels_of, logit_bands
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating
from segproto.prototypes.labels import IGNORE_INDEX

Values = Literal["indices", "classes"]
PROBABILITIES = "probabilities.npy"  # the array's name in the npz


@dataclass(frozen=True)
class Outputs:
    """The files of one image.

    Attributes:
        mask: a PNG.
        values: what it holds: class ``indices``, or ``classes``: the numbers (or colours) of the masks that the model
            was trained on.
        palette: the mask shows the classes' colours (its numbers stay the same).
        overlay: a PNG of the image in the colours of the classes.
        probabilities: an npz with the array ``probabilities``, float16 (H, W, C), or a zarr store of it (``.zarr``).
    """

    mask: Path
    values: Values = "indices"
    palette: bool = False
    overlay: Path | None = None
    probabilities: Path | None = None


def value_table(classes: ClassTable, values: Values) -> Tensor | None:
    """From class indices (and 255) to what a mask holds: int64 (N,), or colours uint8 (N, 3); None = the indices.

    Raises:
        ConfigError: the model does not know what its masks held.
    """
    if values == "indices":
        return None
    if classes.values is None:
        raise ConfigError(
            "--values classes: this model does not say which numbers its masks held (it is older, or was trained on "
            "data without a classes.yaml); leave it out for class indices"
        )
    rgb = isinstance(classes.values[0], str)
    table = torch.zeros(max(256, classes.num_classes), *([3] if rgb else []), dtype=torch.int64)
    table[IGNORE_INDEX] = 0 if rgb else IGNORE_INDEX
    for index, value in enumerate(classes.values):
        if isinstance(value, str):
            number = int(value[1:], 16)
            table[index] = torch.tensor([number >> 16, number >> 8 & 255, number & 255])
        else:
            table[index] = value
    return table


def mask_writer(outputs: Outputs, classes: ClassTable, table: Tensor | None, size: tuple[int, int]) -> MaskWriter:
    """The file of a mask that holds what ``table`` makes of the indices.

    Raises:
        ConfigError: a palette for numbers beyond 255, or for colours.
    """
    rgb = table is not None and table.ndim == 2
    numbers = range(classes.num_classes) if table is None else table[: classes.num_classes].flatten().tolist()
    wide = (not rgb and max(numbers) > 255) or (table is None and classes.num_classes > IGNORE_INDEX)
    if not outputs.palette:
        return MaskWriter(outputs.mask, *size, wide, rgb=rgb)
    if rgb or wide:
        what = "colours" if rgb else "numbers beyond 255"
        raise ConfigError(f"--palette: the masks hold {what}, which no palette shows; leave it out")
    palette = [(0, 0, 0)] * 256
    for number, colour in zip(numbers, classes.colours, strict=True):
        palette[number] = colour
    return MaskWriter(outputs.mask, *size, palette=palette)


def predict_to_files(
    segmenter: Segmenter, image: ImageLike, outputs: Outputs, *, max_pixels: int = MAX_PIXELS, **views: Unpack[Views]
) -> None:
    """Writes what :func:`segproto.model.predict.predict` says of an image, and pictures and probabilities beside it.

    Raises:
        DataError: the image cannot be read or is too large.
        ConfigError: an option that does not fit the model's classes.
    """
    picture = look_at(image, max_pixels, segmenter.encoder.pixels)
    maps = None if outputs.probabilities is None else lambda images: with_ones(segmenter.grid_logits(images))
    with evaluating(segmenter):
        write_outputs(segmenter, picture, outputs, logit_bands(segmenter, picture, maps=maps, **views))


def write_outputs(segmenter: Segmenter, picture: Picture, outputs: Outputs, bands: Iterator[Tensor]) -> None:
    """Writes what bands of logits say of an image; asked for probabilities they end in a channel of weights.

    Args:
        segmenter: whose classes they are.
        picture: the image.
        outputs: the files.
        bands: (C, R, W), or (C + 1, R, W) (:func:`with_ones`), from the top.
    """
    classes, size, wanted = segmenter.classes, (picture.height, picture.width), outputs.probabilities is not None
    table = value_table(classes, outputs.values)
    colours = dict(enumerate(classes.colours))
    with ExitStack() as files:
        mask = files.enter_context(mask_writer(outputs, classes, table, size))
        overlay = shares = None
        if outputs.overlay is not None:
            overlay = files.enter_context(MaskWriter(outputs.overlay, *size, kind="picture", rgb=True))
        if outputs.probabilities is not None:
            shares = files.enter_context(share_file(outputs.probabilities, size, classes))
        done = 0
        for logits in bands:
            labels = labels_of(logits[:-1] if wanted else logits, picture, done)
            mask.write(labels if table is None else table[labels.long()])
            if overlay is not None:
                shown = picture.read(done, 0, done + len(labels), picture.width)
                shown = to_colours(shown, segmenter.encoder.pixels.show)
                overlay.write(colour_labels(shown, labels, colours).permute(1, 2, 0))
            if shares is not None:
                shares(segmenter.head.probabilities(logits[:-1] / logits[-1:], 0))
            done += len(labels)


def with_ones(logits: Tensor) -> Tensor:
    """Logits (B, C, h, w) as float32, and ones: where windows overlap, these become the weights to divide by."""
    logits = logits.float()
    return torch.cat([logits, torch.ones_like(logits[:, :1])], 1)


@contextmanager
def share_file(path: Path, size: tuple[int, int], classes: ClassTable) -> Iterator[Callable[[Tensor], None]]:
    """Something to call with probabilities (C, R, W) of rows from the first to the last.

    Args:
        path: an npz (``.npz``) that holds one float16 array (H, W, C), or a zarr store of it (``.zarr``).
        size: (H, W).
        classes: whose names go into the store.
    """

    def values(shares: Tensor) -> NDArray[np.float16]:
        return shares.permute(1, 2, 0).half().cpu().contiguous().numpy()

    shape, kind = (*size, classes.num_classes), "probabilities"
    if path.suffix == ".zarr":
        axes = ("row", "column", "class")
        with store_rows(path, shape, "float16", kind, {"classes": list(classes.names)}, axes) as write:
            yield lambda shares: write(values(shares))
        return
    with fresh(path, kind) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.comment = mark(kind).encode()
        with archive.open(PROBABILITIES, "w", force_zip64=True) as entry:
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(cast("BinaryIO", entry), header)

            def append(shares: Tensor) -> None:
                entry.write(values(shares).tobytes())

            yield append
