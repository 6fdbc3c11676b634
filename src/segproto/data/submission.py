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
        test_images: how many it expects.
        member: path of a mask in the archive; ``{stem}`` is the image's name.
        numbers: makes the uint8 number that the server reads for each class.
        palette: makes the colours of the masks; None = they are gray.
        image_suffix: left out of the image's name.
    """

    ending: str
    test_images: int
    member: str
    numbers: Callable[[], NDArray[np.uint8]]
    palette: Callable[[], list[int]] | None = None
    image_suffix: str = ""

    def encode(self, file: Path) -> tuple[str, bytes]:
        """From a predicted mask to the member's path and content."""
        numbers = self.numbers()
        palette = None if self.palette is None else self.palette()
        stem = file.stem.removesuffix(self.image_suffix)
        return self.member.format(stem=stem), png(numbers[values(file, len(numbers))], palette)


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
    server = SERVERS[name]
    if not out.name.endswith(server.ending):
        raise DataError(f"--out {out}: {name} is handed in as a file ending in {server.ending}")
    files = sorted(masks.rglob("*.png"))
    if not files:
        raise DataError(f"{masks}: holds no masks (PNG); make them with: segproto predict MODEL IMAGES --out DIR")
    members = (server.encode(file) for file in files)
    with fresh(out, "archive") as file:
        if server.ending == ".zip":
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as target:  # PNG is compressed already
                target.comment = mark("archive").encode()
                for member, content in members:
                    info = zipfile.ZipInfo(member)  # no time of day: the same masks make the same archive
                    info.external_attr = 0o644 << 16
                    target.writestr(info, content)
        else:
            write_tar(file, members)
    return len(files)


def write_tar(file: BinaryIO, members: Iterator[tuple[str, bytes]]) -> None:
    """A compressed tar archive; the mark stands where gzip keeps the name of the original."""
    packer = gzip.GzipFile(mark("archive"), "wb", fileobj=file, mtime=0)
    with packer as packed, tarfile.open(fileobj=packed, mode="w") as target:
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


def cityscapes_ids() -> NDArray[np.uint8]:
    """The label id of each of the 19 classes."""
    labels = shipped("cityscapes")
    ids = np.zeros(labels.table.num_classes, np.uint8)
    for stored, c in labels.lookup.items():
        if c < len(ids):
            ids[c] = stored
    return ids


def voc_palette() -> list[int]:
    """256 colours: bit ``3 k + channel`` of the index is bit ``7 - k`` of the channel (the devkit's colour map)."""
    index = np.arange(256)[:, None]
    bits = [(index >> (3 * k + np.arange(3)) & 1) << (7 - k) for k in range(8)]
    return [int(v) for v in np.sum(bits, axis=0).ravel()]


SERVERS = {
    "cityscapes": Server(".zip", 1525, "{stem}_pred.png", cityscapes_ids, image_suffix="_leftImg8bit"),
    "voc": Server(
        ".tgz",
        1456,
        "results/VOC2012/Segmentation/comp6_test_cls/{stem}.png",
        lambda: np.arange(21, dtype=np.uint8),
        voc_palette,
    ),
    "ade20k": Server(".zip", 3352, "{stem}.png", lambda: np.arange(1, 151, dtype=np.uint8)),
}
