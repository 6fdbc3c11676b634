"""One picture of a TIFF file, of any bands, depth and layout, read window by window and never whole."""

from __future__ import annotations

import html
import math
import re
import sys
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segproto.data.archives import Member
from segproto.data.tiff import BROKEN, MAX_BYTES, bare_tiff
from segproto.errors import DataError
from segproto.files.reading import open_file

if TYPE_CHECKING:
    from tifffile import TiffPage

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_PAGES = 4096
KEPT = 64 << 20  # bytes of decoded tiles or strips that are kept for the next window, at least
PACKED = (8, 32946)  # deflate
KNOWN = (1, 5, 7, *PACKED, 32773, 34925, 50000)  # none, LZW, JPEG, deflate, PackBits, LZMA, ZSTD
REDUCED, MASK = 1, 4  # bits of a page's NewSubfileType
ALPHA = (1, 2)  # kinds of extra samples
METADATA, NODATA = 42112, 42113  # GDAL's tags
DESCRIPTION = re.compile(r'<Item name="DESCRIPTION" sample="(\d+)" role="description">([^<]*)</Item>')
CHANNEL = re.compile(r"<Channel\b[^>]*>")
PLACE = (33550, 33922, 34264)  # GeoTIFF's scale, tie points and matrix
KEYS = (34735, 34736, 34737)  # and its coordinate system
WORLD = (".tfw", ".tifw", ".tiffw", ".wld")


def is_tiff(path: Path | Member) -> bool:
    """Whether an ordinary file, or one in an archive, begins as TIFF and BigTIFF files do."""
    with path.open_binary() if isinstance(path, Member) else open_file(path, what="picture file") as file:
        return file.read(4) in MAGIC


@contextmanager
def tiff_errors(path: Path | Member) -> Iterator[None]:
    """What damaged files raise in tifffile becomes one line."""
    try:
        yield
    except DataError:
        raise
    except BROKEN as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read as a TIFF ({reason})") from error


class TiffBands:
    """An open picture of a TIFF file; pages of smaller copies (a COG's overviews) and of a mask do not count as such.

    Args:
        path: the file.
        page: which of several pictures, from 1; None: there must be one.

    Attributes:
        pages: how many pictures (slices of a stack) the file has.
        height: in pixels.
        width: in pixels.
        count: bands; the channels of an OME-TIFF that lie in pages of their own are bands.
        dtype: of the stored values.
        alpha: the band, from 0, that the file calls alpha; None without one.
        nodata: the value that the file gives to pixels without an image.
        names: what the file calls its bands (GDAL's descriptions, channels of OME); empty unless it names all.
        orientation: of the TIFF, 1..8; it is not applied.

    Raises:
        DataError: naming the file: damaged, several pages and none chosen, a page that is not there, or a compression
            that needs the extra ``tiff``.
    """

    def __init__(self, path: Path | Member, page: int | None = None) -> None:
        self.path = path
        with tiff_errors(path):
            self._tiff = bare_tiff(path)
            pages, masks = self._pages()
            first = pages[0]
            slices, channels = ome_layout(first.description, len(pages))
            self.pages = slices
            if page is None and slices > 1:
                raise DataError(
                    f"{path}: holds {slices} pages, expected one; data.pages=all takes each for an image of "
                    "its own, data.pages=K the K-th of every file (predict: --pages)"
                )
            if page is not None and page > slices:
                raise DataError(f"{path}: has {slices} pages, data.pages={page} is none of them")
            self._chosen = [pages[i] for i in channels[(page or 1) - 1]]
            first = self._chosen[0]
            self.height, self.width = first.imagelength, first.imagewidth
            self.count = first.samplesperpixel * len(self._chosen)
            if first.dtype is None or first.imagedepth > 1 or any(not same(first, other) for other in self._chosen):
                raise ValueError(f"{first.bitspersample} bits a sample, depth {first.imagedepth}")
            self.dtype = np.dtype(first.dtype)
            self.alpha = next(
                (self.count - len(first.extrasamples) + i for i, e in enumerate(first.extrasamples) if e in ALPHA), None
            )
            self.nodata = nodata_of(first)
            self.names = band_names(first, self.count)
            self.orientation = int(first.tags.valueof(274, 1))
            self.photometric, self.compression = int(first.photometric), int(first.compression)
            self.codec: str = getattr(first.compression, "name", str(self.compression))
            self._masks = [m for m in masks if (m.imagelength, m.imagewidth) == (self.height, self.width)]
        self._kept: OrderedDict[tuple[int, int], NDArray[Any] | None] = OrderedDict()

    def _pages(self) -> tuple[list[TiffPage], list[TiffPage]]:
        """Pages of pictures and of masks, without smaller copies."""
        pages: list[TiffPage] = []
        for page in self._tiff.pages:
            pages.append(page)  # type: ignore[arg-type]
            if len(pages) > MOST_PAGES:
                raise ValueError(f"more than {MOST_PAGES} pages")
        whole = [page for page in pages if not page.subfiletype & REDUCED]
        pictures = [page for page in whole if not page.subfiletype & MASK]
        if not pictures:
            raise ValueError("no page of a picture")
        return pictures, [page for page in whole if page.subfiletype & MASK]

    @property
    def directory(self) -> int:
        """Which of the file's image file directories, from 1, the picture begins in."""
        return int(self._chosen[0].index) + 1

    def place(self) -> list[tuple[int, int, int, Any, bool]]:
        """The tags that say where the picture lies, as tifffile writes them; none where it is stored turned."""
        tags = self._chosen[0].tags
        found = [tags[code] for code in (*PLACE, *KEYS) if code in tags] if self.orientation == 1 else []
        return [(tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in found]

    def missing_codec(self) -> str | None:
        """Why tifffile cannot decode this file as installed; None if it can."""
        import tifffile

        page = self._chosen[0]
        if self.compression not in KNOWN:
            return f"compression {self.codec} is not read"
        if self.compression == 1 and page.predictor == 1:
            return None
        try:
            import imagecodecs  # noqa: F401
        except ImportError:
            bare = self.compression in (1, *PACKED, 32773)  # of the others an unpacked size cannot be limited without
            try:
                tifffile.TIFF.UNPREDICTORS[page.predictor]
            except KeyError:
                bare = False
            if not bare:
                return f"compression {self.codec} needs an extra: pip install 'segproto[tiff]'"
        return None

    def read(self, y0: int, x0: int, y1: int, x1: int) -> NDArray[Any]:
        """A window as stored, (count, y1 - y0, x1 - x0).

        Raises:
            DataError: naming the file.
        """
        if reason := self.missing_codec():
            raise DataError(f"{self.path}: {reason}")
        with tiff_errors(self.path):
            parts = [self._window(number, page, (y0, x0, y1, x1)) for number, page in enumerate(self._chosen)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @property
    def has_mask(self) -> bool:
        """Whether the file says by a mask of its own which pixels hold an image."""
        return bool(self._masks)

    def inside(self, y0: int, x0: int, y1: int, x1: int) -> NDArray[np.bool_]:
        """Where the file's own mask says that there is an image."""
        with tiff_errors(self.path):
            inside: NDArray[np.bool_] = self._window(-1, self._masks[0], (y0, x0, y1, x1))[0] > 0
        return inside

    def _window(self, number: int, page: TiffPage, window: tuple[int, int, int, int]) -> NDArray[Any]:
        y0, x0, y1, x1 = window
        planes, _, length, width, contig = page.shaped
        out = np.zeros((planes * contig, y1 - y0, x1 - x0), page.dtype)
        plain = page.compression == 1 and page.predictor == 1 and page.bitspersample == out.itemsize * 8
        if plain and page.is_contiguous and page.fillorder == 1 and not page.is_tiled:
            dtype = out.dtype.newbyteorder(self._tiff.byteorder)
            file, step = self._tiff.filehandle, contig * out.itemsize
            for plane in range(planes):
                for row in range(y0, y1):
                    file.seek(page.dataoffsets[0] + ((plane * length + row) * width + x0) * step)
                    line = np.frombuffer(file.read((x1 - x0) * step), dtype).reshape(x1 - x0, contig)
                    out[plane * contig : (plane + 1) * contig, row - y0] = line.T
            return out
        tall, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, width)
        across, down = math.ceil(width / wide), math.ceil(length / tall)
        rows, columns = range(y0 // tall, -(-y1 // tall)), range(x0 // wide, -(-x1 // wide))
        size = tall * wide * contig * out.itemsize
        if size * len(rows) * len(columns) * planes > MAX_BYTES:
            raise ValueError(f"its strips are too large to be read in parts; gdal_translate -co TILED=YES {self.path}")
        room = max(KEPT, size * len(rows) * len(columns) * planes * 3 // 2)
        for plane in range(planes):
            for r in rows:
                for c in columns:
                    part = self._segment(number, page, (plane * down + r) * across + c, size, room)
                    top, left = max(y0, r * tall), max(x0, c * wide)
                    bottom, right = min(y1, (r + 1) * tall), min(x1, (c + 1) * wide)
                    target = out[plane * contig : (plane + 1) * contig, top - y0 : bottom - y0, left - x0 : right - x0]
                    if part is None:  # a sparse file leaves it out
                        target[:] = self.nodata or 0
                        continue
                    seen = part[top - r * tall : bottom - r * tall, left - c * wide : right - c * wide]
                    target[:] = seen.transpose(2, 0, 1)
        return out

    def _segment(self, number: int, page: TiffPage, index: int, size: int, room: int) -> NDArray[Any] | None:
        """A decoded tile or strip (rows, columns, samples), kept for a while."""
        key = (number, index)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        count = page.databytecounts[index]
        if count > size * 2 + 65536:
            raise ValueError(f"part {index} has {count} bytes for {size}")
        self._tiff.filehandle.seek(page.dataoffsets[index])
        data = self._tiff.filehandle.read(count) if count else None
        if data is not None and page.compression in PACKED and "imagecodecs" not in sys.modules:
            data = data if count * 1032 < KEPT else limited(data, size)
        part = page.decode(data, index, jpegtables=page.jpegtables)[0]
        segment = None if part is None else np.ascontiguousarray(part[0])
        self._kept[key] = segment
        held = sum(0 if kept is None else kept.nbytes for kept in self._kept.values())
        while held > room and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            held -= 0 if old is None else old.nbytes
        return segment


def has_place(path: Path) -> bool:
    """Whether a file is a TIFF that says where it lies, by its tags or by a world file beside it."""
    if path.suffix.lower() not in (".tif", ".tiff") or not is_tiff(path):
        return False
    if any(path.with_suffix(suffix).is_file() for suffix in WORLD):
        return True
    with tiff_errors(path), bare_tiff(path) as tiff:
        return any(tag in tiff.pages.first.tags for tag in PLACE)


def same(first: TiffPage, other: TiffPage) -> bool:
    """Whether two pages can be bands of one picture."""
    return first.shape == other.shape and first.dtype == other.dtype


def nodata_of(page: TiffPage) -> float | None:
    """What GDAL's tag says, if it says anything."""
    try:
        return float(str(page.tags.valueof(NODATA, "")).strip("\0 "))
    except ValueError:
        return None


def band_names(page: TiffPage, count: int) -> tuple[str, ...]:
    """What GDAL's metadata or OME's call the bands; empty unless each has a name."""
    described = {int(band): name for band, name in DESCRIPTION.findall(str(page.tags.valueof(METADATA, "")))}
    names = [described.get(band, "") for band in range(count)]
    if not described and "<OME" in page.description[:4096]:
        found = [re.search(r'\bName="([^"]*)"', channel) for channel in CHANNEL.findall(page.description)]
        names = [match[1] if match else "" for match in found]
    return tuple(map(html.unescape, names)) if len(names) == count and all(names) else ()


def limited(data: bytes, size: int) -> bytes:
    """The same deflated bytes, once they are known not to be more than they should be.

    Raises:
        ValueError: they unpack to more.
    """
    stream = zlib.decompressobj()
    if len(stream.decompress(data, size + 1)) > size:
        raise ValueError("a part unpacks to more than the picture has")
    return data


def ome_layout(description: str, pages: int) -> tuple[int, list[list[int]]]:
    """Slices of a file, and for each the pages of its channels; without OME metadata a page is a slice of its own."""
    alone = pages, [[page] for page in range(pages)]
    if "<OME" not in description[:4096]:
        return alone
    keys = ("SizeC", "SizeZ", "SizeT", "DimensionOrder")
    matches = {key: re.search(rf'\b{key}="(\w+)"', description) for key in keys}
    if not all(matches.values()):
        return alone
    value = {key: match[1] for key, match in matches.items() if match}
    try:
        c, z, t = (int(value[key]) for key in ("SizeC", "SizeZ", "SizeT"))
    except ValueError:
        return alone
    if c * z * t != pages or min(c, z, t) < 1:
        return alone
    sizes, places = {"C": c, "Z": z, "T": t}, {}
    step = 1
    for axis in value["DimensionOrder"][2:]:
        places[axis], step = step, step * sizes.get(axis, 1)
    if places.keys() != sizes.keys():
        return alone
    slices = [(i % z, i // z) for i in range(z * t)]
    return z * t, [[a * places["Z"] + b * places["T"] + k * places["C"] for k in range(c)] for a, b in slices]
