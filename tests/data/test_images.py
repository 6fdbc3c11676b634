"""Reading picture files: every usual kind, and a clear line for the rest."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from segproto.data.classes import ClassesFile
from segproto.data.images import read_colours, read_indices, to_rgb
from segproto.data.palette import default_colours
from segproto.data.picture import read_image
from segproto.data.pixels import to_colours
from segproto.errors import DataError
from segproto.files import png_chunk

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (7, 5), dtype=np.uint8)


def stored(tmp_path: Path, picture: Image.Image, name: str = "a.png") -> Path:
    picture.save(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_rgb_is_unchanged(tmp_path, name):
    image = read_image(stored(tmp_path, Image.fromarray(RGB), name))
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), RGB)


def test_gray_is_repeated(tmp_path):
    image = read_image(stored(tmp_path, Image.fromarray(GRAY)))
    assert image.shape == (3, 7, 5)
    for channel in image:
        np.testing.assert_array_equal(channel.numpy(), GRAY)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_gray_uses_the_full_range(tmp_path, name):
    wide = np.array([[0, 128, 129, 257], [32767, 32768, 65406, 65535]], dtype=np.uint16)
    image = read_image(stored(tmp_path, Image.fromarray(wide), name))
    np.testing.assert_array_equal(image[0].numpy(), wide)  # all 16 bits are kept
    np.testing.assert_array_equal(to_colours(image)[0].numpy(), np.floor(wide.astype(np.float64) / 257 + 0.5))
    assert image[0, 1, 3] == 65535


def test_palette_image_gives_its_colours(tmp_path):
    picture = Image.fromarray(RGB).quantize(8)
    image = read_image(stored(tmp_path, picture))
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(picture.convert("RGB")))


def test_transparent_pixels_are_laid_over_black(tmp_path):
    alpha = np.full((7, 5, 1), 255, np.uint8)
    alpha[0] = 0
    alpha[1] = 128
    image = read_image(stored(tmp_path, Image.fromarray(np.concatenate([RGB, alpha], 2)))).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(image[2:], RGB[2:])
    assert (image[0] == 0).all()
    np.testing.assert_allclose(image[1], RGB[1] * (128 / 255), atol=1.01)


def test_exif_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").shape == (3, 7, 5)


def test_float_images_are_refused():
    with pytest.raises(DataError, match="float pixels"):
        to_rgb(Image.fromarray(GRAY.astype(np.float32)))


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_truncated_file_is_named(tmp_path, keep):
    big = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path = stored(tmp_path, big, "cut.jpg")
    path.write_bytes(path.read_bytes()[:keep] if keep < 200 else path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"cut\.jpg"):
        read_image(path)


def test_other_bad_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.png: no such file"):
        read_image(tmp_path / "none.png")
    pages = [Image.fromarray(GRAY)] * 3
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match="3 pages"):
        read_image(tmp_path / "stack.tif")
    with pytest.raises(DataError, match="7 x 5 = 35 pixels are more than the limit of 34"):
        read_image(stored(tmp_path, Image.fromarray(RGB)), max_pixels=34)


ANIMATED = [("gif", "GIF"), ("webp", "WEBP"), ("png", "PNG")]


@pytest.mark.parametrize(("suffix", "form"), ANIMATED)
def test_animations_are_named_and_a_cameras_previews_are_none(tmp_path, suffix, form):
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, form, save_all=True, append_images=frames[1:])
    for read in (read_image, read_indices):
        with pytest.raises(DataError, match="is an animation of 2 pictures"):
            read(path)
    frames[0].save(tmp_path / "photo.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "photo.jpg").shape == (3, 7, 5)


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr"])
def test_masks_in_other_colour_spaces_are_refused(tmp_path, mode):
    path = stored(
        tmp_path, Image.new("L", (4, 4), 3).convert("RGB").convert("CMYK" if mode == "CMYK" else "RGB"), "a.tif"
    )
    if mode != "CMYK":
        Image.new(mode, (4, 4)).save(path)
    with pytest.raises(DataError, match=f"a mask of mode {mode}"):
        read_indices(path)


def test_a_mask_of_16_bit_colours_would_lose_their_lower_byte(tmp_path):
    ids = np.repeat(np.arange(4, dtype=np.uint16)[None, :, None], 3, 2)
    tifffile.imwrite(tmp_path / "a.tif", ids, photometric="rgb")
    assert torch.equal(read_image(tmp_path / "a.tif").int(), torch.from_numpy(ids.astype(np.int32)).permute(2, 0, 1))
    with pytest.raises(DataError, match="colours of 16 bits"):
        read_indices(tmp_path / "a.tif")


def test_palette_masks_give_indices(tmp_path):
    picture = Image.fromarray((GRAY % 4).astype(np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    path = stored(tmp_path, picture)
    np.testing.assert_array_equal(read_indices(path), GRAY % 4)
    colours = read_colours(path)
    np.testing.assert_array_equal(colours[GRAY % 4 == 1], 0x00FF00)


@pytest.mark.parametrize("name", ["m.png", "m.tif"])
def test_masks_of_8_16_and_1_bit(tmp_path, name):
    np.testing.assert_array_equal(read_indices(stored(tmp_path, Image.fromarray(GRAY), name)), GRAY)
    wide = GRAY.astype(np.uint16) * 200
    np.testing.assert_array_equal(read_indices(stored(tmp_path, Image.fromarray(wide), name)), wide)
    bits = Image.fromarray(GRAY > 100)
    np.testing.assert_array_equal(read_indices(stored(tmp_path, bits, name)), GRAY > 100)


def test_gray_mask_saved_as_rgb_is_read_and_a_coloured_one_refused(tmp_path):
    path = stored(tmp_path, Image.fromarray(GRAY).convert("RGB"))
    np.testing.assert_array_equal(read_indices(path), GRAY)
    with pytest.raises(DataError, match=r"b\.png: the mask is coloured"):
        read_indices(stored(tmp_path, Image.fromarray(RGB), "b.png"))


def test_label_map_against_a_plain_loop(tmp_path):
    file = ClassesFile.model_validate(
        {"classes": [{"name": "a", "values": [3, 60000]}, {"name": "b", "values": 0}], "void": [7]}
    )
    labels = file.label_map()
    values = RNG.choice([0, 3, 7, 255, 60000], (9, 8))
    expected = [[{0: 1, 3: 0, 7: 255, 255: 255, 60000: 0}[v] for v in row] for row in values.tolist()]
    path = stored(tmp_path, Image.fromarray(values.astype(np.uint16)))
    np.testing.assert_array_equal(labels.read(path).numpy(), expected)


def test_coloured_label_map_against_a_plain_loop(tmp_path):
    file = ClassesFile.model_validate(
        {
            "classes": [{"name": "a", "values": "#FF0000"}, {"name": "b", "values": [[0, 1, 2], "#ffffff"]}],
            "void": "#000000",
        }
    )
    labels = file.label_map()
    assert labels.table.colours == ((255, 0, 0), (0, 1, 2))
    choice = RNG.integers(0, 4, (9, 8))
    colours = np.array([(255, 0, 0), (0, 1, 2), (255, 255, 255), (0, 0, 0)], np.uint8)[choice]
    path = stored(tmp_path, Image.fromarray(colours))
    np.testing.assert_array_equal(labels.read(path).numpy(), np.array([0, 1, 1, 255])[choice])
    colours[0, 0] = (254, 0, 0)
    with pytest.raises(DataError, match=r"b\.png: value #fe0000 in 1 pixels is none of the classes \(#000000=void"):
        labels.read(stored(tmp_path, Image.fromarray(colours), "b.png"))


def test_value_outside_the_classes_is_named(tmp_path):
    labels = ClassesFile.model_validate({"classes": ["sky", "road"]}).label_map()
    mask = np.zeros((4, 4), np.uint8)
    mask[1, :3], mask[2, 0] = 37, 99
    with pytest.raises(
        DataError, match=r"m\.png: value 37 \(and 1 other values\) in 4 pixels .*0=sky, 1=road, 255=void"
    ):
        labels.read(stored(tmp_path, Image.fromarray(mask), "m.png"))


def test_default_colours_are_distinct_and_stable():
    colours = default_colours(150)
    assert len(set(colours)) == 150
    assert default_colours(20) == colours[:20]
    assert all(0 <= v <= 255 for c in colours for v in c)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gray_masks_of_few_bits_hold_the_indices_that_were_stored(bits, tmp_path):
    """Pillow stretches 2 and 4 bits to 0..255; a PNG is written here by hand, as Pillow writes none."""
    width, rows = 8, 3
    values = np.arange(rows * width).reshape(rows, width) % 2**bits
    spread = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    packed = np.packbits(spread.reshape(rows, -1), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", width, rows, bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    path = tmp_path / "mask.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, data) for kind, data in chunks))
    np.testing.assert_array_equal(read_indices(path), values)
