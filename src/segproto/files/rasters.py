"""Rasters with a place on the earth: read from a GeoTIFF, written as a cloud-optimised one (COG), by the extra ``geo``.

A raster is written by blocks of rows and is never held whole; the file appears whole or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from segproto.errors import DataError, SegprotoError
from segproto.files.extras import package_of
from segproto.files.marks import mark, require
from segproto.files.writing import disk_errors, fresh, scratch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK = 512  # side of a tile, and the rows that are written at once
CACHE = 128  # MB that GDAL may keep of blocks


@dataclass(frozen=True)
class Georeference:
    """Where a raster lies.

    Attributes:
        crs: the coordinate reference system, as rasterio has it; None where the file names none.
        transform: from columns and rows to coordinates; None where there is none.
        points: ground control points, and their own reference system; empty where there are none.
    """

    crs: Any = None
    transform: Any = None
    points: tuple[Any, ...] = ()
    points_crs: Any = None

    @property
    def known(self) -> bool:
        """Whether the file says anything of it."""
        return self.crs is not None or self.transform is not None or bool(self.points)


def georeference(path: Path, directory: int = 1) -> Georeference:
    """What a GeoTIFF (or a world file beside a TIFF) says of its place.

    Args:
        path: the file.
        directory: which of its image file directories, from 1.

    Raises:
        ConfigError: the extra ``geo`` is missing.
        DataError: GDAL cannot read the file.
    """
    import warnings

    rasterio = package_of("geo", "rasterio", f"{path}: its place")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            opened = path if directory == 1 else f"GTIFF_DIR:{directory}:{path}"
            with rasterio.open(opened, driver="GTiff") as source:
                points, points_crs = source.gcps
                transform = None if source.transform == rasterio.Affine.identity() else source.transform
                return Georeference(source.crs, transform, tuple(points), points_crs)
        except rasterio.errors.RasterioError as error:
            raise DataError(f"{path}: cannot be read as a GeoTIFF ({error})") from error


class RasterWriter:
    """Writes a COG by rows from the top.

    Args:
        path: the file; its folder is made.
        height: rows.
        width: columns.
        dtype: of the values, as ``uint8``.
        place: where it lies.
        nodata: the value of pixels without one.
        kind: the mark it bears, see :mod:`segproto.files`.
        names: one for each band.
        colours: of values 0..255, for a raster of one band of uint8.
        tags: words for people, by name.

    Raises:
        ConfigError: the extra ``geo`` is missing, or something else is at ``path``.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        dtype: str,
        place: Georeference,
        *,
        nodata: float,
        kind: str,
        names: Sequence[str],
        colours: Mapping[int, tuple[int, int, int]] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._rasterio = package_of("geo", "rasterio", f"{path}: writing a GeoTIFF")
        require(path, kind)
        self.path, self.kind = path, kind
        self._size, self._dtype, self._place, self._nodata = (height, width), dtype, place, nodata
        self._names, self._colours, self._tags = tuple(names), colours, dict(tags or {})
        self._held: list[NDArray[Any]] = []
        self._done = 0

    def __enter__(self) -> RasterWriter:
        with ExitStack() as stack:
            stack.enter_context(disk_errors(self.path))
            self._folder = stack.enter_context(scratch(self.path.parent))
            stack.enter_context(self._rasterio.Env(GDAL_CACHEMAX=CACHE))
            height, width = self._size
            location = {"crs": self._place.crs, "transform": self._place.transform}
            if self._place.points:
                location = {"crs": self._place.points_crs, "gcps": list(self._place.points)}
            self._blocks = stack.enter_context(
                self._rasterio.open(
                    self._folder / "blocks.tif",
                    "w",
                    driver="GTiff",
                    height=height,
                    width=width,
                    count=len(self._names),
                    dtype=self._dtype,
                    nodata=self._nodata,
                    tiled=True,
                    blockxsize=BLOCK,
                    blockysize=BLOCK,
                    interleave="band",
                    compress="deflate",
                    zlevel=1,
                    bigtiff="IF_SAFER",
                    **{key: value for key, value in location.items() if value is not None},
                )
            )
            for band, name in enumerate(self._names, 1):
                self._blocks.set_band_description(band, name)
            if self._colours:
                self._blocks.write_colormap(1, dict(self._colours))
            self._blocks.update_tags(TIFFTAG_SOFTWARE=mark(self.kind), **self._tags)
            self._stack = stack.pop_all()
        return self

    def write(self, rows: NDArray[np.generic]) -> None:
        """Appends rows (bands, R, W), or (R, W) of one band.

        Raises:
            ValueError: they do not fit.
        """
        rows = rows[None] if rows.ndim == 2 else rows
        waiting = sum(part.shape[1] for part in self._held)
        if rows.shape[0] != len(self._names) or rows.shape[2] != self._size[1]:
            raise ValueError(f"rows {rows.shape} do not fit {len(self._names)} bands of width {self._size[1]}")
        if self._done + waiting + rows.shape[1] > self._size[0]:
            raise ValueError(f"more rows than {self._size[0]}")
        self._held.append(rows)
        if waiting + rows.shape[1] >= BLOCK:
            self._flush(whole=False)

    def _flush(self, *, whole: bool) -> None:
        import numpy as np

        held = np.concatenate(self._held, 1) if len(self._held) > 1 else self._held[0]
        count = held.shape[1] if whole else held.shape[1] // BLOCK * BLOCK
        window = ((self._done, self._done + count), (0, self._size[1]))
        self._blocks.write(held[:, :count].astype(self._dtype), window=window)
        self._done += count
        self._held = [held[:, count:]] if count < held.shape[1] else []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is None:
                try:
                    self._finish()
                except self._rasterio.errors.RasterioError as failure:
                    raise SegprotoError(f"{self.path}: cannot be written ({failure})") from failure

    def _finish(self) -> None:
        """From blocks to a COG with its overviews, which takes the file's name."""
        from rasterio.shutil import copy

        if self._held:
            self._flush(whole=True)
        if self._done < self._size[0]:
            raise ValueError(f"{self.path}: {self._size[0] - self._done} rows were not written")
        self._blocks.close()
        resampling = "NEAREST" if self._dtype != "float32" else "AVERAGE"
        options = {"compress": "DEFLATE", "blocksize": BLOCK, "overview_resampling": resampling, "bigtiff": "IF_SAFER"}
        copy(self._folder / "blocks.tif", self._folder / "cog.tif", driver="COG", **options)
        with fresh(self.path, self.kind) as file, (self._folder / "cog.tif").open("rb") as made:
            shutil.copyfileobj(made, file, 1 << 22)
            file.write(mark(self.kind).encode())  # where it is looked for, whatever GDAL puts first
