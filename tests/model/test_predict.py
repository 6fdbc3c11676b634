"""Predictions against Segmenter.forward, Pillow and naive averaging."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_segmenters import image, segmenter

from segproto.data.picture import MaskWriter, look_at
from segproto.errors import ConfigError, DataError
from segproto.model import predict as predict_module
from segproto.model import windows as windows_module
from segproto.model.field import Field
from segproto.model.outputs import Outputs, predict_to_files
from segproto.model.predict import logit_bands, predict, predict_logits
from segproto.model.windows import evaluating, spans


def forward(model, pixels):
    with torch.no_grad():
        return model(model.encoder.normalisation(pixels)[None])[0]


@pytest.mark.parametrize("kind", ["linear", "prototype", "grouped"])
@pytest.mark.parametrize(("stride", "multiple", "size"), [(4, 1, (37, 50)), (8, 16, (45, 33)), (1, 1, (20, 31))])
def test_whole_image_equals_forward(kind, stride, multiple, size):
    model, pixels = segmenter(kind, stride=stride, multiple=multiple), image(*size)
    logits = forward(model, pixels)
    assert logits.argmax(0).unique().numel() > 1
    assert torch.equal(predict(model, pixels), logits.argmax(0).to(torch.uint8))
    torch.testing.assert_close(predict_logits(model, pixels), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("grid", "padded", "size"), [((5, 9), (40, 72), (37, 70)), ((65, 86), (512, 683), (512, 683))])
def test_rows_equal_interpolate(grid, padded, size):
    maps = torch.randn(3, *grid)
    field = Field(maps, size, (padded[0] / grid[0], padded[1] / grid[1]))
    expected = F.interpolate(maps[None], padded, mode="bilinear", align_corners=False)[0, :, : size[0], : size[1]]
    rows = torch.cat([field.rows(start, min(start + 7, size[0])) for start in range(0, size[0], 7)], 1)
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4)
    ys, xs = torch.randint(size[0], (50,)), torch.randint(size[1], (50,))
    index, weights = field.cells(ys, xs)
    mixed = (maps.flatten(1)[:, index] * weights).sum(-1)
    torch.testing.assert_close(mixed, expected[:, ys, xs], rtol=1e-4, atol=1e-4)


def test_mirrored_field_is_the_mirror_image():
    maps = torch.randn(2, 4, 6)
    plain, mirrored = Field(maps, (30, 45), (8.0, 8.0)), Field(maps, (30, 45), (8.0, 8.0), mirrored=True)
    assert torch.equal(mirrored.rows(3, 9), plain.rows(3, 9).flip(-1))
    index, weights = mirrored.cells(torch.tensor([3]), torch.tensor([7]))
    torch.testing.assert_close((maps.flatten(1)[:, index[0]] * weights[0]).sum(-1), mirrored.rows(3, 4)[:, 0, 7])


def test_window_that_covers_the_image_changes_nothing():
    model, pixels = segmenter("grouped"), image(60, 90)
    assert torch.equal(predict(model, pixels, window=128), predict(model, pixels))


@pytest.mark.parametrize(("window", "overlap"), [(16, 0.25), (17, 0.0), (40, 0.9), (1, 0.0)])
def test_windows_of_a_1x1_encoder_equal_the_whole(window, overlap):
    model, pixels = segmenter("prototype", stride=1), image(53, 71)
    assert torch.equal(predict(model, pixels, window=window, overlap=overlap), predict(model, pixels))


@pytest.mark.parametrize(("window", "overlap", "size"), [(128, 0.25, (150, 260)), (60, 0.7, (120, 80))])
def test_windows_are_averaged_as_naively(window, overlap, size):
    model, pixels = segmenter("prototype", stride=4), image(*size)
    total, weights = torch.zeros(4, *size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    ramp = window * overlap
    for y0, y1 in spans(size[0], window, overlap):
        for x0, x1 in spans(size[1], window, overlap):
            logits = forward(model, pixels[:, y0:y1, x0:x1]).double()
            for y in range(y0, y1):
                for x in range(x0, x1):
                    near = [(y - y0 + 0.5) if y0 else ramp, (y1 - y - 0.5) if y1 < size[0] else ramp]
                    wide = [(x - x0 + 0.5) if x0 else ramp, (x1 - x - 0.5) if x1 < size[1] else ramp]
                    w = min(1, *(v / ramp for v in near)) * min(1, *(v / ramp for v in wide))
                    total[:, y, x] += w * logits[:, y - y0, x - x0]
                    weights[y, x] += w
    assert (weights > 0).all()
    mask = predict(model, pixels, window=window, overlap=overlap)
    top = total.topk(2, dim=0)[0]
    sure = top[0] - top[1] > 1e-4 * weights
    assert sure.float().mean() > 0.99
    assert torch.equal(mask[sure], total.argmax(0).to(torch.uint8)[sure])
    assert not torch.equal(mask, predict(model, pixels))


@pytest.mark.parametrize("length", [1, 127, 128, 129, 500, 1000, 10000])
@pytest.mark.parametrize(("window", "overlap"), [(128, 0.25), (768, 0.25), (100, 0.5), (64, 0.0), (500, 0.0)])
def test_spans_cover_with_overlap(length, window, overlap):
    windows = spans(length, window, overlap)
    assert windows[0][0] == 0
    assert windows[-1][1] == length
    assert all(0 < stop - start <= window for start, stop in windows)
    for (_, stop), (start, _) in itertools.pairwise(windows):
        assert stop - start >= int(overlap * window)


def test_scales_and_flip_average_logits():
    model, pixels = segmenter("linear"), image(40, 64)
    inputs = model.encoder.normalisation(pixels)[None]
    expected = torch.zeros(4, 40, 64)
    with torch.no_grad():
        for scale in (0.5, 1.0, 1.5):
            size = (round(40 * scale), round(64 * scale))
            scaled = F.interpolate(inputs, size=size, mode="bilinear", align_corners=False)
            for mirrored in (False, True):
                grid = model.grid_logits(scaled.flip(-1) if mirrored else scaled)
                full = F.interpolate(grid, size=(40, 64), mode="bilinear", align_corners=False)[0]
                expected += (full.flip(-1) if mirrored else full) / 6
    logits = predict_logits(model, pixels, scales=(0.5, 1.0, 1.5), flip=True)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(predict(model, pixels, scales=(0.5, 1.0, 1.5), flip=True), logits.argmax(0).to(torch.uint8))
    with pytest.raises(ConfigError, match="scales"):
        predict(model, pixels, scales=())


def test_every_kind_of_image_gives_the_same_mask(tmp_path):
    model, pixels = segmenter("linear"), image(30, 40)
    array = pixels.permute(1, 2, 0).numpy()
    picture = Image.fromarray(array)
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "a.tif")
    expected = predict(model, pixels)
    opaque = np.dstack([array, np.full((30, 40), 255, np.uint8)])
    kinds = [array, picture, tmp_path / "a.png", str(tmp_path / "a.tif"), opaque, Image.fromarray(opaque)]
    for kind in [*kinds, pixels.float() / 255, array.astype(np.uint16) * 257]:
        assert torch.equal(predict(model, kind), expected)
    gray = predict(model, array[..., 0])
    assert torch.equal(gray, predict(model, Image.fromarray(array[..., 0])))
    assert torch.equal(gray, predict(model, np.repeat(array[..., :1], 3, 2)))
    alpha = opaque.copy()
    alpha[..., 3] = 100
    assert (
        look_at(alpha).read(0, 0, 30, 40).int() - look_at(Image.fromarray(alpha)).read(0, 0, 30, 40)
    ).abs().max() <= 1


def test_wrong_images_are_refused_in_one_line(tmp_path):
    model = segmenter()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    wide = Image.new("L", (3000, 200))
    wide.save(tmp_path / "wide.png")
    for value, text in [
        (tmp_path / "none.png", "none.png"),
        (tmp_path / "broken.png", "broken.png"),
        (torch.zeros(2, 4, 4), "shape"),
        (torch.zeros(3, 4, 4) - 1, r"\[0, 1\]"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
        (np.zeros((4, 4), np.float32) * np.nan, r"\[0, 1\]"),
    ]:
        with pytest.raises(DataError, match=text) as caught:
            predict(model, value)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"wide.png.*--max-pixels 600000"):
        predict(model, tmp_path / "wide.png", max_pixels=599_999)
    assert predict(model, tmp_path / "wide.png", max_pixels=600_000).shape == (200, 3000)
    for options in ({"window": 0}, {"window": 64, "overlap": 0.95}):
        with pytest.raises(ConfigError, match="window"):
            predict(model, image(80, 80), **options)


def test_huge_files_are_refused_from_their_header(tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (20000, 20000)).save(path)
    with pytest.raises(DataError, match="--max-pixels 400000000"):
        predict(segmenter(), path)


def test_pillows_own_limit_is_not_in_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (64, 64), (9, 200, 30)).save(tmp_path / "a.png")
    assert predict(segmenter(), tmp_path / "a.png").shape == (64, 64)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("window", [None, 16])
def test_png_is_the_mask(tmp_path, window):
    model, pixels = segmenter("grouped"), image(41, 67)
    path = tmp_path / "new" / "mask.png"
    predict_to_files(model, pixels, Outputs(path), window=window)
    with Image.open(path) as written:
        assert written.mode == "L"
        assert np.array_equal(np.asarray(written), predict(model, pixels, window=window).numpy())
    assert [p.name for p in path.parent.iterdir()] == ["mask.png"]


def test_unfinished_png_leaves_the_old_file(tmp_path):
    path = tmp_path / "mask.png"

    def write(rows):
        with MaskWriter(path, 4, 5) as writer:
            writer.write(rows)

    write(torch.ones(4, 5, dtype=torch.uint8))
    old = path.read_bytes()
    for rows in (torch.zeros(3, 5), torch.zeros(5, 5), torch.zeros(4, 6)):
        with pytest.raises(ValueError, match="rows"):
            write(rows.to(torch.uint8))
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_modes_are_put_back():
    model = segmenter()
    model.train()
    model.encoder.backbone.eval()
    predict(model, image(20, 20))
    assert model.training
    assert model.head.training
    assert not model.encoder.backbone.training
    assert torch.is_grad_enabled()


def test_large_images_take_windows(monkeypatch):
    model, pixels = segmenter("prototype", stride=1), image(80, 80)
    expected = predict(model, pixels)
    sizes = []
    monkeypatch.setattr(predict_module, "WHOLE_PIXELS", 6000)
    monkeypatch.setattr(predict_module, "WINDOW", 32)
    model.encoder.backbone.register_forward_hook(lambda _, args, __: sizes.append(tuple(args[0].shape[-2:])))
    assert torch.equal(predict(model, pixels), expected)
    assert max(sizes) == (32, 32)


@pytest.mark.parametrize("options", [{}, {"scales": (0.5, 1.0), "flip": True}])
def test_windows_go_through_the_network_together(monkeypatch, options):
    model, pixels = segmenter("grouped", classes=6), image(150, 500)
    batches = []
    model.encoder.backbone.register_forward_hook(lambda _, args, __: batches.append(tuple(args[0].shape)))
    masks = {}
    for most in (1, 3 * 128 * 128, 2**18):
        monkeypatch.setattr(windows_module, "CPU_PIXELS", most)
        with evaluating(model):
            bands = list(logit_bands(model, look_at(pixels), window=128, **options))
        masks[most] = torch.cat(bands, 1)
        if not options:
            assert [b[0] for b in batches] == {1: [1] * 10, 3 * 128 * 128: [3, 1, 1] * 2, 2**18: [4, 1] * 2}[most]
            assert {b[2:] for b in batches} == {(128, 128), (128, 116), (118, 128), (118, 116)}
            batches.clear()
    for mask in masks.values():
        torch.testing.assert_close(mask, masks[1], rtol=1e-5, atol=1e-5)
        assert torch.equal(mask.argmax(0), masks[1].argmax(0))


SCRIPT = """
import resource, sys
import numpy as np
sys.path.insert(0, {tests!r})
from pathlib import Path
from PIL import Image
from tiny_segmenters import segmenter
from segproto.model.outputs import Outputs, predict_to_files
model = segmenter("grouped", classes=6, stride=4)
predict_to_files(model, np.zeros((64, 64, 3), np.uint8), Outputs(Path({out!r})))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
predict_to_files(model, Path({image!r}), Outputs(Path({out!r})))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_of_a_100_megapixel_image(tmp_path):
    big, out = tmp_path / "big.png", tmp_path / "mask.png"
    tile = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
    Image.fromarray(np.kron(tile, np.ones((100, 100, 1), np.uint8))).save(big, compress_level=1)
    script = SCRIPT.format(tests=str(Path(__file__).parents[1] / "support"), out=str(out), image=str(big))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) * 1024 < 2 * 2**30
    with Image.open(out) as mask:
        assert mask.size == (10000, 10000)
