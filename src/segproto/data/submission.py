"""Predicted masks in the form each benchmark server takes."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segproto.data.images import read_stored
from segproto.data.published_sets import shipped
from segproto.errors import DataError
from segproto.files import fresh, mark


@dataclass(frozen=True)
class Server:
    """What a benchmark's server takes.

    Attributes:
        ending: of the archive.
        encode: from a predicted mask to the member's name and content.
        test_images: how many it expects.
    """

    ending: str
    encode: Callable[[Path], tuple[str, bytes]]
    test_images: int


VOC_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"


def submit(name: str, masks: Path, out: Path) -> int:
    """Packs a folder of predicted masks (classes from 0, as ``segproto predict`` writes them).

    Cityscapes: label ids in a zip; VOC: the results folder of comp6 with its palette, in a tar; ADE20K: numbers from 1
    in a zip.

    Returns:
        Number of masks.

    Raises:
        DataError: no such server, no masks, a value that is no class, or another ending of ``out``.
    """
    if name not in SERVERS:
        raise DataError(f"{name}: no server takes its predictions here; known: {', '.join(SERVERS)}")
    ending, encode = SERVERS[name].ending, SERVERS[name].encode
    if not out.name.endswith(ending):
        raise DataError(f"--out {out}: {name} is handed in as a file ending in {ending}")
    files = sorted(masks.rglob("*.png"))
    if not files:
        raise DataError(f"{masks}: holds no masks (PNG); make them with: segproto predict MODEL IMAGES --out DIR")
    members = (encode(file) for file in files)
    with fresh(out, "archive") as file:
        if ending == ".zip":
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as target:  # PNG is compressed already
                target.comment = mark("archive").encode()
                for member, content in members:
                    target.writestr(member, content)
        else:
            write_tar(file, members)
    return len(files)


def write_tar(file: BinaryIO, members: Iterator[tuple[str, bytes]]) -> None:
    """A compressed tar archive; the mark stands where gzip keeps the name of the original."""
    with gzip.GzipFile(mark("archive"), "wb", fileobj=file) as packed, tarfile.open(fileobj=packed, mode="w") as target:
        for member, content in members:
            info = tarfile.TarInfo(member)
            info.size = len(content)
            target.addfile(info, io.BytesIO(content))


def values(file: Path, count: int) -> NDArray[np.uint8]:
    """A predicted mask.

    Raises:
        DataError: a value that is none of the classes.
    """
    mask = read_stored(file)
    if int(mask.max(initial=0)) >= count:
        raise DataError(f"{file}: value {int(mask.max())} is none of the {count} classes; predict with another model?")
    return mask.astype(np.uint8)


def png(mask: NDArray[np.uint8], palette: list[int] | None = None) -> bytes:
    """An 8-bit PNG; mode L, or P with a full palette (a short one makes some versions of Pillow write fewer bits)."""
    picture = Image.fromarray(mask)
    if palette is not None:
        picture.putpalette(palette)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def cityscapes(file: Path) -> tuple[str, bytes]:
    """Label ids, named by city, sequence and frame."""
    labels = shipped("cityscapes")
    ids = np.zeros(labels.table.num_classes, np.uint8)
    for stored, c in labels.lookup.items():
        if c < len(ids):
            ids[c] = stored
    return f"{file.stem.removesuffix('_leftImg8bit')}_pred.png", png(ids[values(file, len(ids))])


def voc(file: Path) -> tuple[str, bytes]:
    """Indices with the devkit's palette."""
    return f"{VOC_FOLDER}/{file.stem}.png", png(values(file, 21), voc_palette())


def ade20k(file: Path) -> tuple[str, bytes]:
    """Numbers 1..150."""
    return f"{file.stem}.png", png(values(file, 150) + np.uint8(1))


def voc_palette() -> list[int]:
    """256 colours: bit ``3 k + channel`` of the index is bit ``7 - k`` of the channel (the devkit's colour map)."""
    index = np.arange(256)[:, None]
    bits = [(index >> (3 * k + np.arange(3)) & 1) << (7 - k) for k in range(8)]
    return [int(v) for v in np.sum(bits, axis=0).ravel()]


SERVERS = {
    "cityscapes": Server(".zip", cityscapes, 1525),
    "voc": Server(".tgz", voc, 1456),
    "ade20k": Server(".zip", ade20k, 3352),
}
