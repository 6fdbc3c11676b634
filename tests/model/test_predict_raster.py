"""Masks of georeferenced images lie where the images lie: read back with rasterio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import tiny_segmenters
import torch

from segproto import api
from segproto.data.images import read_indices
from segproto.data.pixels import PixelRule
from segproto.data.tiff_bands import TiffBands
from segproto.errors import ConfigError
from segproto.files.rasters import Georeference, RasterWriter
from segproto.model.predict import predict, predict_logits

rasterio = pytest.importorskip("rasterio")

PLACE = {"crs": "EPSG:32640", "transform": rasterio.Affine(0.3, 0, 300000, 0, -0.3, 2700000)}
NOISE = np.random.default_rng(4)


def mosaic(path: Path, height: int = 700, width: int = 90, **more: object) -> np.ndarray:
    """A GeoTIFF of 16 bits whose first rows hold no image."""
    values = NOISE.integers(1, 3000, (3, height, width)).astype(np.uint16)
    values[:, :5, :7] = 0
    shape = {"height": height, "width": width, "count": 3, "dtype": "uint16", "nodata": 0}
    with rasterio.open(path, "w", driver="GTiff", **shape, **{**PLACE, **more}) as out:
        out.write(values)
    return values


def model() -> tiny_segmenters.Segmenter:
    found = tiny_segmenters.segmenter()
    found.encoder.pixels = PixelRule(value_range=((0.0, 3000.0),), stored="uint16")
    return found


def test_place_size_and_nodata_are_the_images(tmp_path: Path) -> None:
    mosaic(tmp_path / "a.tif")
    segmenter = model()
    [mask] = api.predict(segmenter, tmp_path / "a.tif", out=tmp_path / "m", probabilities=tmp_path / "p", quiet=True)
    assert mask == tmp_path / "m/a.tif"
    wanted = predict(segmenter, tmp_path / "a.tif").numpy()
    assert (wanted[:5, :7] == 255).all()
    with rasterio.open(mask) as made, rasterio.open(tmp_path / "a.tif") as image:
        assert (made.crs, made.transform, made.shape) == (image.crs, image.transform, image.shape)
        assert (made.nodata, made.dtypes, made.driver) == (255, ("uint8",), "GTiff")
        assert made.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert made.colormap(1)[2][:3] == segmenter.classes.colours[2]
        np.testing.assert_array_equal(made.read(1), wanted)
    np.testing.assert_array_equal(read_indices(mask), wanted)
    logits = predict_logits(segmenter, tmp_path / "a.tif")
    with rasterio.open(tmp_path / "p/a.tif") as made:
        assert (made.crs.to_epsg(), made.count, made.descriptions) == (32640, 4, segmenter.classes.names)
        shares = made.read()
    inside = wanted != 255
    np.testing.assert_allclose(shares[:, inside], logits.softmax(0).numpy()[:, inside], atol=1e-6)
    assert np.isnan(shares[:, ~inside]).all()


def test_probabilities_of_windows_are_shares(tmp_path: Path) -> None:
    mosaic(tmp_path / "a.tif", 150, 140)
    options = {"window": 64, "quiet": True}
    api.predict(model(), tmp_path / "a.tif", out=tmp_path / "m", probabilities=tmp_path / "p", **options)
    with rasterio.open(tmp_path / "m/a.tif") as mask, rasterio.open(tmp_path / "p/a.tif") as made:
        found, shares = mask.read(1), np.nan_to_num(made.read())
    np.testing.assert_array_equal(shares.argmax(0)[found != 255], found[found != 255])
    np.testing.assert_allclose(shares.sum(0)[found != 255], 1, atol=1e-5)


@pytest.mark.parametrize("form", ["npz", "zarr"])
def test_probabilities_beside_geotiffs_may_be_arrays(tmp_path: Path, form: str) -> None:
    mosaic(tmp_path / "a.tif", 150, 140)
    options = {"out": tmp_path / "m", "window": 64, "quiet": True, "probabilities_format": form}
    if form == "zarr":
        zarr = pytest.importorskip("zarr")
    [mask] = api.predict(model(), tmp_path / "a.tif", probabilities=tmp_path / "p", **options)
    file = tmp_path / f"p/a.{form}"
    shares = np.load(file)["probabilities"] if form == "npz" else zarr.open(str(file), mode="r")[:]
    api.predict(
        model(), tmp_path / "a.tif", probabilities=tmp_path / "q", **{**options, "probabilities_format": "auto"}
    )
    with rasterio.open(mask) as made, rasterio.open(tmp_path / "q/a.tif") as raster:
        inside = made.read(1) != 255
        np.testing.assert_allclose(shares[inside], raster.read().transpose(1, 2, 0)[inside], atol=1e-3)


def test_other_images_stay_png_and_commands_can_be_repeated(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    mosaic(folder / "a.tif", 20, 30)
    mosaic(folder / "b.tif", 20, 30, crs=None, transform=None)
    for _ in range(2):
        names = [path.name for path in api.predict(model(), folder, out=tmp_path / "m", quiet=True)]
        assert names == ["a.tif", "b.png"]
    names = [path.name for path in api.predict(model(), folder, out=tmp_path / "n", form="png", quiet=True)]
    assert names == ["a.png", "b.png"]
    (tmp_path / "m/a.tif").write_bytes((folder / "a.tif").read_bytes())
    with pytest.raises(ConfigError, match=r"a\.tif: is there and is no mask that segproto made"):
        api.predict(model(), folder, out=tmp_path / "m", quiet=True)


def test_a_raster_that_lacks_rows_leaves_nothing(tmp_path: Path) -> None:
    options = {"nodata": 255, "kind": "mask", "names": ["class"]}
    with pytest.raises(ValueError, match="10 rows were not written"):
        write_some(RasterWriter(tmp_path / "a.tif", 30, 8, "uint8", Georeference(), **options))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def write_some(writer: RasterWriter) -> None:
    with writer:
        writer.write(torch.zeros(20, 8, dtype=torch.uint8).numpy())


def test_control_points_are_kept(tmp_path: Path) -> None:
    from rasterio.control import GroundControlPoint

    points = [GroundControlPoint(row, column, 5.0 + column, 50.0 - row) for row, column in ((0, 0), (0, 29), (19, 0))]
    mosaic(tmp_path / "a.tif", 20, 30, crs="EPSG:4326", transform=None, gcps=points)
    [mask] = api.predict(model(), tmp_path / "a.tif", out=tmp_path / "m", form="tif", quiet=True)
    with rasterio.open(mask) as made:
        found, crs = made.gcps
    assert crs.to_epsg() == 4326
    assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in points]


def test_pages_of_a_stack_keep_their_places(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "days.tif") as stack:
        for day in range(2):
            mosaic(tmp_path / "day.tif", 40, 50, transform=rasterio.Affine(0.3, 0, 300000 + day, 0, -0.3, 2700000))
            page = TiffBands(tmp_path / "day.tif")
            tags = [*page.place(), (42113, "s", 0, "0", True)]
            stack.write(page.read(0, 0, 40, 50), photometric="rgb", metadata=None, extratags=tags)
    segmenter = model()
    segmenter.encoder.pixels = PixelRule(value_range=((0.0, 3000.0),), stored="uint16", page="all")
    [mask] = api.predict(segmenter, tmp_path / "days.tif", out=tmp_path / "m", quiet=True)
    for day in range(2):
        with rasterio.open(f"GTIFF_DIR:{day + 1}:{mask}") as found:
            assert found.transform == rasterio.Affine(0.3, 0, 300000 + day, 0, -0.3, 2700000)
            assert found.crs == PLACE["crs"]
    segmenter.encoder.pixels = PixelRule(value_range=((0.0, 3000.0),), stored="uint16", page=2)
    [mask] = api.predict(segmenter, tmp_path / "days.tif", out=tmp_path / "second", quiet=True)
    with rasterio.open(mask) as found:
        assert found.transform.c == 300001
