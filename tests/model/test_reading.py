"""Stacks come back as stacks, page by page; bands that stand elsewhere are found by number and by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from tiny_segmenters import image, segmenter
from torch import Tensor
from typer.testing import CliRunner

from segproto import api
from segproto.cli.app import app
from segproto.data.base import ClassTable
from segproto.data.classes import read_classes
from segproto.data.config import DataConfig
from segproto.data.init import init_folder
from segproto.data.pixels import PixelRule
from segproto.data.unlabelled import ImageFolder
from segproto.data.verify import verify
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.errors import ConfigError, DataError
from segproto.evaluation.masks import score_masks
from segproto.model.heads import LinearHead
from segproto.model.predict import predict
from segproto.model.segmenter import Segmenter

NAMES = ("red", "green", "blue", "nir")


def stack(path: Path, pages: int = 3) -> list[Tensor]:
    """A TIFF of so many pages, RGB; gives them."""
    pictures = [image(30, 41, seed=number) for number in range(pages)]
    with tifffile.TiffWriter(path) as out:
        for picture in pictures:
            out.write(picture.permute(1, 2, 0).numpy(), photometric="rgb", contiguous=False, metadata=None)
    return pictures


def for_stacks() -> Segmenter:
    net = segmenter("prototype", classes=4)
    net.classes = ClassTable(tuple("abcd"), net.classes.colours, (0, 255, 7, 12))
    net.encoder.pixels = PixelRule(page="all")
    return net


def test_the_mask_of_a_stack_has_as_many_pages(tmp_path: Path) -> None:
    net, pictures = for_stacks(), stack(tmp_path / "a.tif")
    wanted = np.stack([predict(net, picture).numpy() for picture in pictures])
    options = {"out": tmp_path / "m", "quiet": True}
    for _ in range(2):  # its own mask is replaced
        assert api.predict(net, tmp_path / "a.tif", **options) == [tmp_path / "m/a.tif"]
    made = tifffile.imread(tmp_path / "m/a.tif")
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, wanted)
    api.predict(net, tmp_path / "a.tif", **options, values="classes")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "m/a.tif"), np.array([0, 255, 7, 12])[wanted])
    np.testing.assert_array_equal(torch.stack(net.predict(tmp_path / "a.tif")), wanted)


def test_masks_in_stacks_are_known_as_what_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stack(tmp_path / "a.tif")
    first = api.predict(for_stacks(), tmp_path, out=tmp_path / "made")
    assert first == [tmp_path / "made/a.tif"]
    assert api.predict(for_stacks(), tmp_path, out=tmp_path / "made") == first
    assert "1 made by segproto" in capsys.readouterr().err


def test_each_page_has_its_own_files_as_pictures(tmp_path: Path) -> None:
    net, pictures = for_stacks(), stack(tmp_path / "a.tif")
    options = {"out": tmp_path / "m", "quiet": True, "probabilities": tmp_path / "p"}
    with pytest.raises(ConfigError, match="of stacks go with a picture per page: --format png"):
        api.predict(net, tmp_path / "a.tif", **options)
    masks = api.predict(net, tmp_path / "a.tif", form="png", **options)
    assert masks == [tmp_path / f"m/a/page{number}.png" for number in (1, 2, 3)]
    for number, picture in enumerate(pictures, 1):
        shares = np.load(tmp_path / f"p/a/page{number}.npz")["probabilities"]
        assert shares.shape == (30, 41, 4)
        assert (shares.argmax(-1) == predict(net, picture).numpy()).mean() > 0.99


def test_pages_are_chosen_for_predict_and_explain(tmp_path: Path) -> None:
    net, pictures = segmenter("prototype", classes=4), stack(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"holds 3 pages, expected one; .*--pages"):
        api.predict(net, tmp_path / "a.tif", out=tmp_path / "m", quiet=True)
    [mask] = api.predict(net, tmp_path / "a.tif", out=tmp_path / "m", pages=2, quiet=True)
    np.testing.assert_array_equal(
        tifffile.imread(mask) if mask.suffix == ".tif" else read(mask), predict(net, pictures[1])
    )
    assert net.encoder.pixels == PixelRule()
    net.encoder.pixels = PixelRule(page="all")
    with pytest.raises(DataError, match="holds 3 pages; say which one is meant: --page K"):
        api.explain(net, tmp_path / "a.tif")
    why = api.explain(net, tmp_path / "a.tif", page=3, out=tmp_path / "why")
    assert torch.equal(why.prediction, predict(net, pictures[2]))
    net.encoder.pixels = PixelRule(page=2)
    assert torch.equal(api.explain(net, tmp_path / "a.tif").prediction, predict(net, pictures[1]))


def read(mask: Path) -> np.ndarray:
    from segproto.data.images import read_indices

    return read_indices(mask)


def test_masks_in_stacks_are_counted_and_trained_on_by_page(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name in "abc":
        stack(tmp_path / f"images/{name}.tif", 2)
        labels = np.zeros((2, 30, 41), np.uint8)
        labels[0, :9], labels[1, :5] = 255, 3
        tifffile.imwrite(tmp_path / f"labels/{name}.tif", labels, photometric="minisblack")
    with pytest.raises(DataError, match=r"holds 2 pages, expected one; data\.pages=all"):
        init_folder(DataConfig(root=tmp_path))
    notes = verify(DataConfig(root=tmp_path)).notes
    assert "3 of 3 masks cannot be read" in notes[0]
    assert "data.pages=all takes each for an image" in notes[0]
    made = init_folder(DataConfig(root=tmp_path, pages=1), tmp_path / "one.yaml")
    assert set(made.values.pixels) == {0, 255}
    config = DataConfig(root=tmp_path, pages="all")
    assert set(init_folder(config).values.pixels) == {0, 3, 255}
    assert verify(config).ok
    table = read_classes(tmp_path / "classes.yaml", None).labels
    figures = score_masks(tmp_path / "labels", tmp_path / "labels", classes=table, own_values=True)
    assert (figures["images"], figures["miou"]) == (6, 1.0)
    assert verify(DataConfig(root=tmp_path, pages=1, classes=tmp_path / "one.yaml")).ok
    assert ImageFolder(tmp_path / "images", rule=PixelRule(page="all")).names[:3] == ("a/page1", "a/page2", "b/page1")
    assert DataConfig(root=tmp_path, pages="all").pixel_rule.page == "all"


def four_bands() -> Segmenter:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name="unet", width=4, dim=4, rates=[1], bands=4), load_weights=False)
    encoder.pixels = PixelRule(bands=(1, 2, 3, 4), names=NAMES)
    table = ClassTable(tuple("abc"), ((0, 0, 0), (9, 9, 9), (99, 9, 9)))
    net = Segmenter(encoder, LinearHead(encoder.num_features, 3), table).eval()
    with torch.no_grad():  # so that no class wins everywhere
        net.head.weight.normal_(std=4)
        net.head.bias -= net.head(net.features(torch.randn(1, 4, 32, 48))).mean((0, 2, 3))
    return net


def of_bands(path: Path, order: tuple[int, ...], named: bool, pixels: np.ndarray) -> Path:
    """A TIFF with the bands in this order, and GDAL's names of them."""
    words = "".join(
        f'<Item name="DESCRIPTION" sample="{place}" role="description">{NAMES[band].upper()}</Item>'
        for place, band in enumerate(order)
    )
    tags = [(42112, "s", 0, f"<GDALMetadata>{words}</GDALMetadata>", True)] if named else []
    shown = {"photometric": "minisblack", "planarconfig": "contig", "extratags": tags, "metadata": None}
    tifffile.imwrite(path, pixels[..., list(order)], **shown)
    return path


def test_bands_that_stand_elsewhere_are_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net, order = four_bands(), (3, 1, 0, 2)  # nir, green, red, blue
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 4), np.uint8)
    wanted = predict(net, of_bands(tmp_path / "a.tif", (0, 1, 2, 3), True, pixels)).numpy()
    turned = of_bands(tmp_path / "b.tif", order, True, pixels)
    options = {"out": tmp_path / "m", "quiet": True}
    [mask] = api.predict(net, turned, **options)
    assert (read(mask) != wanted).any()
    assert (
        "are called nir, green, red, blue, and the model takes them for red, green, blue, nir; --bands" in caplog.text
    )
    caplog.clear()
    for bands in ("names", [3, 2, 4, 1], ["Red", "green", 4, "NIR"]):
        np.testing.assert_array_equal(read(api.predict(net, turned, bands=bands, **options)[0]), wanted)
        assert np.array_equal(api.explain(net, turned, bands=bands).prediction.numpy(), wanted)
    api.predict(net, tmp_path / "a.tif", **options)
    assert not caplog.text
    unnamed = of_bands(tmp_path / "c.tif", order, False, pixels)
    with pytest.raises(DataError, match=r"c\.tif: no band is called red: the file calls them nothing; give numbers"):
        api.predict(net, unnamed, bands="names", **options)
    with pytest.raises(ConfigError, match=r"--bands 1,2,3: 3 bands, but the model sees 4 \(red, green, blue, nir\)"):
        api.predict(net, turned, bands=[1, 2, 3], **options)
    with pytest.raises(DataError, match=r"has 4 bands, data\.bands=\[1, 2, 3, 5\] names others; .*predict --bands"):
        api.predict(net, turned, bands=[1, 2, 3, 5], **options)
    assert net.encoder.pixels.bands == (1, 2, 3, 4)


def test_the_commands_take_bands_and_pages(tmp_path: Path) -> None:
    net = four_bands()
    net.save(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 4), np.uint8)
    turned = of_bands(tmp_path / "b.tif", (3, 1, 0, 2), True, pixels)
    wanted = predict(net, pixels).numpy()
    common = [str(tmp_path / "model"), str(turned), "--out"]
    for bands in ("names", "3,2,4,1", "red, green,4,nir"):
        run = CliRunner().invoke(app, ["predict", *common, str(tmp_path / "m"), "--bands", bands])
        assert run.exit_code == 0, run.output
        np.testing.assert_array_equal(read(tmp_path / "m/b.png"), wanted)
    run = CliRunner().invoke(app, ["explain", *common, str(tmp_path / "why"), "--bands", "names", "--page", "1"])
    assert run.exit_code == 0, run.output
    for option, value, words in (("--bands", "1,,2", "numbers or names"), ("--pages", "none", "expected all, or")):
        run = CliRunner().invoke(app, ["predict", *common, str(tmp_path / "m"), option, value])
        assert words in str(run.exception)
