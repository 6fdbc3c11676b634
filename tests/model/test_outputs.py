"""What predict writes beside plain masks, and what a model remembers of how it saw its images."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_segmenters import image, segmenter

from segproto.api.predict import predict as predict_files
from segproto.data.base import ClassTable
from segproto.data.images import read_indices
from segproto.encoders.view import View, trained_view
from segproto.errors import ConfigError
from segproto.files.stores import store_rows
from segproto.model.outputs import Outputs, predict_to_files
from segproto.model.predict import predict, predict_logits
from segproto.model.segmenter import Segmenter

COLOURS = ((10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 200))


def model(values: tuple[int | str, ...] | None = None) -> Segmenter:
    out = segmenter("prototype", classes=4)
    out.classes = ClassTable(tuple("abcd"), COLOURS, values)
    return out


@pytest.mark.parametrize("values", [(0, 255, 7, 12), (1, 300, 4000, 65535)])
def test_masks_come_back_in_their_own_numbers(tmp_path: Path, values: tuple[int, ...]) -> None:
    net, picture = model(values), image(30, 41)
    predict_to_files(net, picture, Outputs(tmp_path / "m.png", "classes"))
    expected = np.array(values)[predict(net, picture).numpy()]
    assert np.array_equal(read_indices(tmp_path / "m.png"), expected)


def test_masks_of_colours_come_back_in_colours(tmp_path: Path) -> None:
    net, picture = model(("#000000", "#ff0080", "#00ff00", "#0a0b0c")), image(30, 41)
    predict_to_files(net, picture, Outputs(tmp_path / "m.png", "classes"))
    table = np.array([[0, 0, 0], [255, 0, 128], [0, 255, 0], [10, 11, 12]])
    with Image.open(tmp_path / "m.png") as stored:
        assert stored.mode == "RGB"
        assert np.array_equal(np.array(stored), table[predict(net, picture).numpy()])
    with pytest.raises(ConfigError, match="the masks hold colours"):
        predict_to_files(net, picture, Outputs(tmp_path / "m.png", "classes", palette=True))
    with pytest.raises(ConfigError, match="does not say which numbers its masks held"):
        predict_to_files(model(), picture, Outputs(tmp_path / "m.png", "classes"))


def test_a_palette_shows_colours_and_keeps_numbers(tmp_path: Path) -> None:
    net, picture = model((0, 255, 7, 12)), image(30, 41)
    expected = predict(net, picture).long()
    for kind, numbers in (("indices", [0, 1, 2, 3]), ("classes", [0, 255, 7, 12])):
        predict_to_files(net, picture, Outputs(tmp_path / "m.png", kind, palette=True))
        with Image.open(tmp_path / "m.png") as stored:
            assert stored.mode == "P"
            assert np.array_equal(np.array(stored), np.array(numbers)[expected])
            assert np.array_equal(np.array(stored.convert("RGB")), np.array(COLOURS)[expected])


@pytest.mark.parametrize("window", [None, 32])
def test_overlay_and_probabilities_by_bands(tmp_path: Path, window: int | None) -> None:
    net, picture = model(), image(70, 81)
    outputs = Outputs(tmp_path / "m.png", overlay=tmp_path / "o.png", probabilities=tmp_path / "p.npz")
    predict_to_files(net, picture, outputs, window=window)
    mask = predict(net, picture, window=window)
    assert np.array_equal(read_indices(tmp_path / "m.png"), mask)
    with np.load(tmp_path / "p.npz") as stored:
        shares = stored["probabilities"]
    assert shares.shape == (70, 81, 4)
    assert shares.dtype == np.float16
    assert np.allclose(shares.sum(-1, dtype=np.float64), 1, atol=2e-3)
    top = np.take_along_axis(shares, mask.numpy()[..., None].astype(int), -1)[..., 0]
    assert (top >= shares.max(-1) - 1e-3).all()
    if window is None:
        expected = predict_logits(net, picture).softmax(0).permute(1, 2, 0).numpy()
        assert np.abs(shares - expected).max() < 1e-3
    with Image.open(tmp_path / "o.png") as stored:
        assert stored.size == (81, 70)
        assert stored.mode == "RGB"


def test_predict_leaves_out_masks_and_its_own_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("images/a.png", "images/b.png", "labels/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image(20, 20).permute(1, 2, 0).numpy()).save(tmp_path / name)
    net, options = model(), {"out": tmp_path / "masks", "overlay": tmp_path / "shown"}
    first = predict_files(net, tmp_path, **options)
    assert [path.relative_to(tmp_path).as_posix() for path in first] == ["masks/images/a.png", "masks/images/b.png"]
    assert "left out: 1 pictures in labels (masks, by the folder's name)" in capsys.readouterr().err
    assert predict_files(net, tmp_path, out=tmp_path / "masks") == first
    assert "4 made by segproto" in capsys.readouterr().err  # masks, and pictures of them
    with pytest.raises(ConfigError, match="is the folder of other files"):
        predict_files(net, tmp_path / "images", out=tmp_path / "masks", overlay=tmp_path / "masks")


def test_windows_of_the_training_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    net, picture = model(), image(80, 90)
    whole, windowed = predict(net, picture), predict(net, picture, window=32)
    assert not torch.equal(whole, windowed)
    net.encoder.view = trained_view(32, None, (80, 90))
    assert torch.equal(predict(net, picture), windowed)
    assert torch.equal(predict(net, picture, window=96), whole)
    net.encoder.view = View(32)  # of crops: only where an image is too large to be seen at once
    assert torch.equal(predict(net, picture), whole)
    monkeypatch.setattr("segproto.model.predict.WHOLE_PIXELS", 1000)
    assert torch.equal(predict(net, picture), windowed)
    net.encoder.view = trained_view(None, None, (80, 90))  # trained on whole images of that size
    assert torch.equal(predict(net, picture), whole)
    assert trained_view(None, (64, 512), (80, 90)) == View(512)


@pytest.mark.parametrize("window", [None, 160])
def test_probabilities_in_chunks_are_those_of_the_npz(tmp_path: Path, window: int | None) -> None:
    zarr = pytest.importorskip("zarr")
    net, picture = model(), image(300, 530)
    for name in ("p.npz", "p.zarr", "p.zarr"):  # an earlier store of ours is replaced
        predict_to_files(net, picture, Outputs(tmp_path / "m.png", probabilities=tmp_path / name), window=window)
    store = zarr.open(str(tmp_path / "p.zarr"), mode="r")
    with np.load(tmp_path / "p.npz") as stored:
        assert np.array_equal(store[:], stored["probabilities"])
    assert store.chunks == (256, 512, 4)
    assert store.attrs["classes"] == ["a", "b", "c", "d"]
    assert store.attrs["_ARRAY_DIMENSIONS"] == ["row", "column", "class"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.png", "p.npz", "p.zarr"]


def test_rows_reach_a_store_chunk_by_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zarr = pytest.importorskip("zarr")
    monkeypatch.setattr("segproto.files.stores.CHUNK", (8, 5))
    rows = np.random.default_rng(0).random((29, 11, 2)).astype(np.float16)
    with store_rows(tmp_path / "a.zarr", rows.shape, "float16", "probabilities", {}, ("y", "x", "c")) as write:
        (part,) = (path for path in tmp_path.iterdir() if path.name.endswith(".part"))
        for start, stop in ((0, 3), (3, 20), (20, 21), (21, 29)):
            write(rows[start:stop])
            assert (part / "0.0.0").exists() == (stop >= 8)
            assert (part / "2.0.0").exists() == (stop >= 24)
    assert np.array_equal(zarr.open(str(tmp_path / "a.zarr"), mode="r")[:], rows)
    with (
        pytest.raises(ValueError, match="9 rows were not written"),
        store_rows(tmp_path / "b.zarr", rows.shape, "float16", "probabilities", {}, ("y", "x", "c")) as write,
    ):
        write(rows[:20])
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_stores_take_the_place_of_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(image(20, 20).permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    options = {"out": tmp_path / "m", "probabilities": tmp_path / "p", "quiet": True}
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ConfigError, match=r"probabilities-format zarr needs the extra zarr .* 'segproto\[zarr\]'"):
        predict_files(model(), tmp_path / "a.png", probabilities_format="zarr", **options)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="say where to write them: --probabilities DIR"):
        predict_files(model(), tmp_path / "a.png", out=tmp_path / "m", probabilities_format="npz")
    pytest.importorskip("zarr")
    (tmp_path / "p/a.zarr").mkdir(parents=True)
    (tmp_path / "p/a.zarr/mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"a\.zarr: holds mine\.txt and would be replaced"):
        predict_files(model(), tmp_path / "a.png", probabilities_format="zarr", **options)
    assert not (tmp_path / "m").exists()
