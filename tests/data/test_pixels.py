"""Image files of any bands and depth: what tifffile and NumPy read whole is what is read here by windows."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from segproto.data.augment import augment
from segproto.data.bands import open_stored_bands
from segproto.data.build import build_dataset
from segproto.data.config import AugmentConfig, DataConfig
from segproto.data.picture import look_at, read_pixels
from segproto.data.pixels import PixelRule, levels, to_colours
from segproto.data.tiff_bands import TiffBands, limited, ome_layout
from segproto.data.verify import verify
from segproto.encoders.base import IMAGENET
from segproto.errors import ConfigError, DataError, SegprotoError

RNG = np.random.default_rng(7)
FOUR = PixelRule(bands=(1, 2, 3, 4))


def write(file, values, **options):
    """A TIFF of bands (H, W, N) side by side."""
    tifffile.imwrite(file, values, photometric="minisblack", planarconfig="contig", **options)


KINDS = {  # (options of tifffile, bands last?)
    "strips": {"rowsperstrip": 5},
    "one strip": {},
    "deflated": {"compression": "zlib", "rowsperstrip": 3},
    "predicted": {"compression": "zlib", "predictor": True, "rowsperstrip": 7},
    "tiled": {"tile": (16, 32)},
    "tiled, deflated": {"tile": (16, 16), "compression": "zlib"},
    "big": {"bigtiff": True, "tile": (16, 16)},
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_are_parts_of_the_whole(tmp_path, kind, planar, dtype):
    whole = (RNG.random((4, 37, 53)) * (1 if dtype == np.float32 else np.iinfo(dtype).max)).astype(dtype)
    options = {"planarconfig": "separate" if planar else "contig", "photometric": "minisblack", **KINDS[kind]}
    for order in "<>":
        path = tmp_path / f"a{'lb'[order == '>']}.tif"
        if dtype == np.float32 and "predictor" in options:
            options["predictor"] = 1
        data = whole if planar else whole.transpose(1, 2, 0)
        tifffile.imwrite(path, data, byteorder=order, **options)
        tiff = TiffBands(path)
        assert (tiff.count, tiff.height, tiff.width, tiff.pages) == (4, 37, 53, 1)
        for window in ((0, 0, 37, 53), (3, 5, 20, 33), (16, 16, 17, 17), (30, 40, 37, 53)):
            y0, x0, y1, x1 = window
            np.testing.assert_array_equal(tiff.read(*window), whole[:, y0:y1, x0:x1])


def test_bands_are_chosen_and_put_in_order(tmp_path):
    whole = RNG.integers(0, 60000, (9, 11, 5)).astype(np.uint16)
    write(tmp_path / "a.tif", whole)
    image, inside = read_pixels(tmp_path / "a.tif", PixelRule(bands=(5, 1, 3)))
    assert inside is None
    assert image.dtype == torch.uint16
    np.testing.assert_array_equal(image.numpy(), whole[..., [4, 0, 2]].transpose(2, 0, 1))
    with pytest.raises(DataError, match=r"a\.tif: has 5 bands; say which the model is to see: data\.bands="):
        read_pixels(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: has 5 bands, data\.bands=\[6\] names others"):
        read_pixels(tmp_path / "a.tif", PixelRule(bands=(6,)))


def test_a_fourth_band_called_alpha_is_never_multiplied_nor_left_out_unasked(tmp_path):
    whole = RNG.integers(0, 256, (6, 7, 4)).astype(np.uint8)
    whole[0, 0, 3] = 0
    tifffile.imwrite(tmp_path / "a.tif", whole, photometric="rgb", extrasamples=["unassalpha"])
    with pytest.raises(DataError, match=r"band 4 of 4 is tagged as alpha.*data\.bands=.*data\.alpha=void"):
        read_pixels(tmp_path / "a.tif")
    image, inside = read_pixels(tmp_path / "a.tif", FOUR)
    np.testing.assert_array_equal(image.numpy(), whole.transpose(2, 0, 1))
    image, inside = read_pixels(tmp_path / "a.tif", PixelRule(alpha="void"))
    np.testing.assert_array_equal(image.numpy(), whole[..., :3].transpose(2, 0, 1))
    np.testing.assert_array_equal(inside.numpy(), whole[..., 3] > 0)
    assert read_pixels(tmp_path / "a.tif", PixelRule(alpha="ignore"))[1] is None


def test_copies_and_masks_inside_a_file_are_no_pages(tmp_path):
    whole = RNG.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    valid = np.ones((32, 32), np.uint8)
    valid[:3] = 0
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(whole, photometric="rgb", tile=(16, 16))
        tiff.write(whole[::2, ::2], photometric="rgb", tile=(16, 16), subfiletype=1)
        tiff.write(valid * 255, subfiletype=1)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages[2].tags[254].overwrite(4)  # the mask
    image, inside = read_pixels(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.numpy(), whole.transpose(2, 0, 1))
    np.testing.assert_array_equal(inside.numpy(), valid > 0)


def test_slices_of_a_stack_are_asked_for(tmp_path):
    stack = RNG.integers(0, 256, (3, 8, 9)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    with pytest.raises(DataError, match=r"holds 3 pages, expected one; data\.pages=all"):
        read_pixels(tmp_path / "a.tif")
    image, _ = read_pixels(tmp_path / "a.tif", PixelRule(page=2))
    np.testing.assert_array_equal(image.numpy(), np.repeat(stack[1:2], 3, 0))
    with pytest.raises(DataError, match=r"has 3 pages, data\.pages=4"):
        read_pixels(tmp_path / "a.tif", PixelRule(page=4))


def test_each_slice_is_an_image_where_that_is_asked_for(tmp_path):
    root = folder(tmp_path, lambda n: RNG.integers(0, 256, (16, 16, 3)).astype(np.uint8))
    for number in (0, 1):
        stack = RNG.integers(0, 60000, (3, 16, 16)).astype(np.uint16)
        labels = RNG.integers(0, 2, (3, 16, 16)).astype(np.uint8)
        tifffile.imwrite(root / f"images/{number}.tif", stack, photometric="minisblack")
        (root / f"labels/{number}.png").unlink()
        tifffile.imwrite(root / f"labels/{number}.tif", labels, photometric="minisblack")
    config = DataConfig(root=root, pages="all", layout="folder", split={"val_pattern": "^3"})
    train = build_dataset(config, "train")
    assert train.names == (*(f"{n}/page{p}" for n in (0, 1) for p in (1, 2, 3)), "2")
    sample = train[4]
    np.testing.assert_array_equal(sample.image.numpy(), np.repeat(stack[1:2], 3, 0))
    np.testing.assert_array_equal(sample.mask.numpy(), labels[1])
    assert verify(config).ok
    tifffile.imwrite(root / "labels/1.tif", labels[:2], photometric="minisblack")
    with pytest.raises(DataError, match=r"1\.tif: the mask has 2 pages, its image 3"):
        build_dataset(config, "train")


def test_channels_of_ome_files_are_bands(tmp_path):
    whole = RNG.integers(0, 60000, (4, 12, 13)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.ome.tif", whole, metadata={"axes": "CYX"}, photometric="minisblack")
    image, _ = read_pixels(tmp_path / "a.ome.tif", FOUR)
    np.testing.assert_array_equal(image.numpy(), whole)
    volume = RNG.integers(0, 60000, (3, 2, 12, 13)).astype(np.uint16)  # slices, channels
    tifffile.imwrite(tmp_path / "b.ome.tif", volume, metadata={"axes": "ZCYX"}, photometric="minisblack")
    image, _ = read_pixels(tmp_path / "b.ome.tif", PixelRule(bands=(1, 2), page=3))
    np.testing.assert_array_equal(image.numpy(), volume[2])
    words = '<OME><Pixels SizeC="2" SizeZ="3" SizeT="1" DimensionOrder="XYZCT"/></OME>'
    assert ome_layout(words, 6) == (3, [[0, 3], [1, 4], [2, 5]])


def png16(values):
    """A PNG of 16 bits per band: header, rows without a filter."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, count = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[count], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_png_colours_of_16_bits_keep_their_lower_bytes(tmp_path):
    whole = RNG.integers(0, 65536, (6, 7, 4)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(png16(whole[..., :3]))
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png")[0].numpy(), whole[..., :3].transpose(2, 0, 1))
    (tmp_path / "b.png").write_bytes(png16(whole))
    np.testing.assert_array_equal(read_pixels(tmp_path / "b.png", FOUR)[0].numpy(), whole.transpose(2, 0, 1))
    over = np.round(whole[..., :3] * (whole[..., 3:] / 65535)).transpose(2, 0, 1)  # transparent ones lie over black
    np.testing.assert_allclose(read_pixels(tmp_path / "b.png")[0].numpy(), over, atol=0.6)


def test_pixels_are_those_of_pillow_where_they_were(tmp_path):
    rgb = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    alpha = Image.fromarray(RNG.integers(0, 256, (20, 30, 4), dtype=np.uint8))
    for picture, name in (
        (rgb, "a.png"),
        (rgb, "a.tif"),
        (rgb, "a.jpg"),
        (alpha, "b.png"),
        (rgb.convert("P"), "c.tif"),
    ):
        picture.save(tmp_path / name)
        with Image.open(tmp_path / name) as stored:
            over = Image.alpha_composite(Image.new("RGBA", stored.size, (0, 0, 0, 255)), stored.convert("RGBA"))
            expected = np.asarray(over.convert("RGB")).transpose(2, 0, 1)
        image, inside = read_pixels(tmp_path / name)
        assert inside is None
        np.testing.assert_array_equal(image.numpy(), expected)


def test_value_ranges_keep_every_level(tmp_path):
    whole = np.arange(4096, dtype=np.uint16).reshape(64, 64, 1).repeat(3, 2)
    tifffile.imwrite(tmp_path / "a.tif", whole, photometric="rgb")
    image, _ = read_pixels(tmp_path / "a.tif", PixelRule(value_range=((0.0, 4095.0),)))
    assert len(image[0].unique()) == 4096
    np.testing.assert_allclose(levels(image)[0].numpy(), whole[..., 0] / 4095 * 255, atol=0.002)
    image, _ = read_pixels(tmp_path / "a.tif", PixelRule(value_range=((0, 4095), (1000, 2000), (0, 65535))))
    np.testing.assert_allclose(
        levels(image)[1].numpy(), np.clip((whole[..., 0] - 1000.0) / 1000, 0, 1) * 255, atol=0.002
    )


def test_floats_need_a_range_and_their_holes_are_void(tmp_path):
    whole = RNG.normal(0, 3, (8, 9, 3)).astype(np.float32)
    whole[2, 3] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", whole, photometric="rgb")
    with pytest.raises(DataError, match=r"float32 have no fixed range: set data\.value_range"):
        read_pixels(tmp_path / "a.tif")
    image, inside = read_pixels(tmp_path / "a.tif", PixelRule(value_range=((-5.0, 5.0),)))
    assert image.dtype == torch.float32
    assert not inside[2, 3]
    assert int(inside.sum()) == 71
    expected = np.nan_to_num(np.clip((whole + 5) / 10, 0, 1) * 255).transpose(2, 0, 1)
    np.testing.assert_allclose(image.numpy(), expected, rtol=1e-5)


def test_eight_bits_for_a_wider_range_are_refused(tmp_path):
    Image.fromarray(RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: holds 8 bits, but data\.value_range is 0\.\.3060"):
        read_pixels(tmp_path / "a.png", PixelRule(value_range=((0.0, 3060.0),)))


def test_arrays_are_read_as_files_are(tmp_path):
    whole = RNG.integers(0, 4000, (12, 15, 4)).astype(np.uint16)
    write(tmp_path / "a.tif", whole)
    rule = PixelRule(bands=(4, 2), value_range=((0.0, 4095.0),), show=(0, 0, 0))
    of_file, of_array = look_at(tmp_path / "a.tif", rule=rule), look_at(whole, rule=rule)
    assert torch.equal(of_file.read(1, 2, 9, 11), of_array.read(1, 2, 9, 11))


def test_sixteen_bits_are_normalised_and_augmented_as_eight_are():
    eight = torch.from_numpy(RNG.integers(0, 256, (3, 40, 50), dtype=np.uint8))
    wide = (eight.int() * 257).to(torch.uint16)
    torch.testing.assert_close(IMAGENET(wide), IMAGENET(eight))
    torch.testing.assert_close(IMAGENET(levels(eight)), IMAGENET(eight), rtol=0, atol=0)
    mask = torch.zeros(40, 50, dtype=torch.uint8)
    config = AugmentConfig(crop=24, brightness=20, jitter=(0.2, 0.2, 0.2, 0.1), hsv=8, rotate90=True)
    found = [
        augment(i, mask, config, torch.Generator().manual_seed(3), IMAGENET)[0] for i in (eight, wide, levels(eight))
    ]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0.05)  # three steps of 8 bits


def test_pictures_show_the_bands_that_are_asked_for():
    image = torch.from_numpy(RNG.integers(0, 65536, (5, 4, 4)).astype(np.uint16))
    shown = to_colours(image, (4, 2, 0))
    assert shown.dtype == torch.uint8
    np.testing.assert_array_equal(shown.numpy(), np.rint(image.numpy()[[4, 2, 0]] / 257))
    plain = torch.from_numpy(RNG.integers(0, 256, (3, 4, 4), dtype=np.uint8))
    assert to_colours(plain) is plain


def folder(root, make, count=4):
    """A data set of ``count`` pictures, the last for validation."""
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    (root / "classes.yaml").write_text("classes: [a, b]\nsplit: {val_fraction: 0.25}\n")
    for number in range(count):
        write(root / f"images/{number}.tif", make(number))
        mask = np.zeros((16, 16), np.uint8)
        mask[:, 8:] = 1
        Image.fromarray(mask).save(root / f"labels/{number}.png")
    return root


def test_twelve_bits_in_sixteen_are_noticed(tmp_path):
    root = folder(tmp_path, lambda n: RNG.integers(0, 3061, (16, 16, 3)).astype(np.uint16))
    notes = verify(DataConfig(root=root)).notes
    assert any(
        "of 65535 in 3 images of 16 bits" in note and "data.value_range=[0, 4095] (12 bits)" in note for note in notes
    )
    assert verify(DataConfig(root=root, value_range=(0, 4095))).notes == []


def test_twelve_bits_with_a_range_are_what_eight_bits_were(tmp_path):
    eight = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    eight[0, 0], eight[0, 1] = 0, 255
    Image.fromarray(eight).save(tmp_path / "a.png")
    write(tmp_path / "a.tif", eight.astype(np.uint16) * 12)
    plain = read_pixels(tmp_path / "a.png")[0]
    ranged = read_pixels(tmp_path / "a.tif", PixelRule(value_range=((0.0, 3060.0),)))[0]
    assert torch.equal(to_colours(ranged), plain)
    torch.testing.assert_close(IMAGENET(ranged), IMAGENET(plain), rtol=0, atol=4e-5)
    dark = read_pixels(tmp_path / "a.tif")[0]  # without it, all are within a twentieth of the range
    assert float((IMAGENET(dark) - IMAGENET(plain)).abs().max()) > 1


def test_percentiles_are_measured_over_the_training_images(tmp_path):
    root = folder(tmp_path, lambda n: RNG.integers(100 * n, 1000 * (n + 1), (16, 16, 4)).astype(np.uint16))
    config = DataConfig(root=root, bands={"red": 3, "nir": 4}, value_range={"percentiles": [2, 98]})
    with pytest.raises(ConfigError, match="is measured when a training begins"):
        build_dataset(config, "train")
    from segproto.data.measure import with_measured_range

    measured = with_measured_range(config)
    train = build_dataset(measured, "train")
    every = np.concatenate([tifffile.imread(train.path(i)).reshape(-1, 4) for i in range(len(train))])
    for band, (low, high) in zip((2, 3), measured.value_range, strict=True):
        expected = np.percentile(every[:, band], [2, 98], method="inverted_cdf")
        np.testing.assert_allclose((low, high), expected, atol=1)
    assert with_measured_range(measured) is measured


def test_pixels_without_an_image_are_void(tmp_path):
    def make(number):
        image = RNG.integers(1, 4000, (16, 16, 4)).astype(np.uint16)
        image[:2] = 0
        image[5, 5, :3] = 0  # the fourth band has something there
        return image

    root = folder(tmp_path, make)
    sample = build_dataset(DataConfig(root=root, bands=[1, 2, 3, 4], nodata=0), "train")[0]
    assert (sample.mask[:2] == 255).all()
    assert int((sample.mask == 255).sum()) == 32
    assert int((build_dataset(DataConfig(root=root, bands=[1, 2, 3, 4]), "train")[0].mask == 255).sum()) == 0
    one, other = (build_dataset(DataConfig(root=root, bands=b), "train") for b in ([1], [2]))
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "scenes", "bands": [1]}, "bands is for name: folder, images"),
        ({"bands": [0]}, "greater than 0"),
        ({"bands": []}, "at least one band"),
        ({"value_range": [5, 5]}, r"value_range must be \[low, high\]"),
        ({"value_range": [[0, 1], [0, 2]]}, "2 pairs for 3 bands"),
        ({"bands": [1, 2, 3, 4], "augment": {"hsv": 3}}, "for red, green and blue"),
        ({"bands": {"nir": 4}, "show": ["red"]}, "'red' is none of the bands nir"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        DataConfig(**settings)


@pytest.mark.parametrize("cut", [20, 200, 900])
def test_damaged_files_are_named(tmp_path, cut):
    stream = io.BytesIO()
    whole = RNG.integers(0, 9, (40, 40, 4)).astype(np.uint16)
    write(stream, whole, compression="zlib", rowsperstrip=8)
    (tmp_path / "a.tif").write_bytes(stream.getvalue()[:cut])
    with pytest.raises(SegprotoError, match=r"a\.tif"):
        read_pixels(tmp_path / "a.tif", FOUR)


def test_a_small_file_does_not_unpack_to_gigabytes(tmp_path):
    bomb = zlib.compress(bytes(1 << 27), 9)
    with pytest.raises(ValueError, match="unpacks to more"):
        limited(bomb, 1 << 15)
    good = zlib.compress(bytes(1 << 15))
    assert limited(good, 1 << 15) is good
    whole = RNG.integers(0, 60000, (64, 64, 4)).astype(np.uint16)
    write(tmp_path / "a.tif", whole, compression="zlib", rowsperstrip=64)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages.first.tags[279].overwrite(1 << 24)
    with pytest.raises(DataError, match=r"a\.tif: .*bytes for"):
        TiffBands(tmp_path / "a.tif").read(0, 0, 64, 64)


def test_rasterio_reads_the_same(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    whole = RNG.integers(1, 4000, (4, 70, 50)).astype(np.uint16)
    profile = {"driver": "GTiff", "height": 70, "width": 50, "count": 4, "dtype": "uint16", "nodata": 0}
    for name, more in {"a": {"interleave": "band"}, "b": {"tiled": True, "blockxsize": 16, "blockysize": 16}}.items():
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile, **more, compress="deflate") as out:
            out.write(whole)
        stored = open_stored_bands(tmp_path / f"{name}.tif")
        assert stored.nodata == 0
        np.testing.assert_array_equal(stored.read(5, 6, 61, 44), whole[:, 5:61, 6:44])
