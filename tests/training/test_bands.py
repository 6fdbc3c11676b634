"""Runs on images of other bands and depths: what is read in training is what is read ever after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import tiny_segmenters
import torch
import training_tiny as tiny
import yaml
from PIL import Image
from safetensors.torch import save_file

from segproto import api
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.data.measure import start_notes
from segproto.data.pixels import PixelRule
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.errors import ConfigError, DataError, WeightsError
from segproto.interop.export import SUFFIX, export
from segproto.interop.export_check import open_program
from segproto.model.explain import explain
from segproto.model.heads import GroupedHead
from segproto.model.predict import predict, predict_logits
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.runs.settings import data_config

BANDS = "data.bands={red: 1, green: 2, blue: 3, nir: 4}"


def folder(root: Path, count: int = 8) -> Path:
    """16-bit pictures of four bands; only the fourth tells the two classes apart."""
    noise = np.random.default_rng(5)
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    (root / "classes.yaml").write_text("classes: [dry, wet]\nsplit: {val_fraction: 0.25}\n")
    for number in range(count):
        mask = np.zeros((32, 32), np.uint8)
        y, x = noise.integers(0, 16, 2)
        mask[y : y + 18, x : x + 18] = 1
        image = noise.integers(500, 1500, (32, 32, 4)).astype(np.uint16)
        image[..., 3] += mask * np.uint16(1200)
        tifffile.imwrite(root / f"images/{number}.tif", image, photometric="minisblack", planarconfig="contig")
        Image.fromarray(mask).save(root / f"labels/{number}.png")
    return root


def trained(root: Path, out: Path, *settings: str) -> dict[str, Any]:
    """The last stage's figures of a short run."""
    base = ("data.name=folder", f"data.root={root}", "data.augment={crop: 32, scale: [1, 1]}", "encoder.width=4")
    steps = ("stages.first_steps=40", "stages.second_steps=20", "stages.noise=0", "train.checkpoint_every=100")
    return tiny.train(out, *base, *steps, *settings).figures


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    place = tmp_path_factory.mktemp("bands")
    root = folder(place / "data")
    return root, place / "run", trained(root, place / "run", BANDS, "data.value_range=percentiles")


def test_the_fourth_band_is_worth_thirty_points(run, tmp_path):
    root, _, figures = run
    colours = trained(root, tmp_path / "rgb", "data.bands=[1, 2, 3]", "data.value_range=percentiles")
    assert figures["miou"] > 0.8
    assert figures["miou"] - colours["miou"] >= 0.3


def test_what_was_measured_is_written_and_travels_with_the_model(run):
    root, out, _ = run
    data = yaml.safe_load((out / "recipe.yaml").read_text())["data"]
    assert data["bands"] == {"red": 1, "green": 2, "blue": 3, "nir": 4}
    assert len(data["value_range"]) == 4
    assert 2400 < data["value_range"][3][1] < 2700
    pixels = json.loads((out / "model/model.json").read_text())["pixels"]
    assert pixels["bands"] == [1, 2, 3, 4]
    assert pixels["stored"] == "uint16"
    model = Segmenter.load(out / "model")
    assert model.encoder.pixels == PixelRule(**{**data_rule(data), "stored": "uint16"})
    assert model.encoder.normalisation.mean[3] == model.encoder.normalisation.mean[0]
    bare = data_config(out / "model", {}, [f"data.root={root}"])
    assert bare.value_range == [tuple(pair) for pair in data["value_range"]]


def data_rule(data: dict[str, Any]) -> dict[str, Any]:
    ranges = tuple(tuple(pair) for pair in data["value_range"])
    return {"bands": tuple(data["bands"].values()), "names": tuple(data["bands"]), "value_range": ranges}


def test_a_model_reads_files_and_arrays_as_its_training_did(run, tmp_path):
    root, out, _ = run
    model = Segmenter.load(out / "model")
    file = root / "images/0.tif"
    mask = predict(model, file)
    assert torch.equal(mask, predict(model, tifffile.imread(file)))
    assert torch.equal(mask, predict(model, file, window=4096))
    truth = torch.from_numpy(np.asarray(Image.open(root / "labels/0.png")))
    assert (mask == truth).float().mean() > 0.75
    why = explain(model, file)
    assert why.image.dtype == torch.uint8
    assert why.image.shape == (3, 32, 32)
    assert torch.equal(why.prediction, mask)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: has 3 bands, data\.bands=\[1, 2, 3, 4\] names others"):
        predict(model, tmp_path / "a.png")


def test_pixels_without_an_image_stay_without_a_class(run, tmp_path):
    root, out, _ = run
    model = Segmenter.load(out / "model")
    image = tifffile.imread(root / "images/0.tif")
    image[:5, :7] = 0
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "a.tif", image, extratags=[(42113, "s", 0, "0", True)], **options)
    mask = predict(model, tmp_path / "a.tif")
    assert (mask[:5, :7] == 255).all()
    assert int((mask == 255).sum()) == 35


def with_head(model: Segmenter, kind: str) -> Segmenter:
    """The model as it was trained (a black box), or with the head of scaleproto on its features."""
    if kind == "grouped":
        dims = model.encoder.scale_dims
        torch.manual_seed(0)
        model.head = GroupedHead(PrototypeBank.regular(model.classes.num_classes, 2, len(dims), dims[0]), 2)
    return model.eval()


@pytest.mark.parametrize(("form", "kind"), [("torch", "linear"), ("onnx", "linear"), ("onnx", "grouped")])
def test_graphs_take_the_values_of_files(run, tmp_path, form, kind):
    root, out, _ = run
    model, file = with_head(Segmenter.load(out / "model"), kind), tmp_path / f"a{SUFFIX[form]}"
    if form == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    card = export(model, file, form)
    assert card["input"]["image"][:3] == ["float32", 1, 4]
    assert card["input"]["bands"] == "red, green, blue, nir, values as files hold them"
    raw = np.tile(tifffile.imread(root / "images/0.tif"), (2, 2, 1))
    with file.open("rb") as stored:
        answer, _ = open_program(stored, form)
        outputs = dict(
            zip(card["outputs"], answer(torch.from_numpy(raw.transpose(2, 0, 1)[None].astype(np.float32))), strict=True)
        )
    wanted = predict_logits(model, raw)
    torch.testing.assert_close(outputs["logits"][0], wanted, rtol=1e-3, atol=1e-3)
    clear = wanted.topk(2, 0).values.diff(dim=0)[0].abs() > 2e-3
    assert clear.float().mean() > 0.9
    assert torch.equal(outputs["mask"][0][clear], predict(model, raw)[clear])


def test_an_artefact_whose_bands_disagree_is_refused(run, tmp_path):
    _, out, _ = run
    model = Segmenter.load(out / "model")
    model.encoder.pixels = PixelRule(bands=(1, 2), show=(0, 1, 1))
    model.save(tmp_path / "m")
    with pytest.raises(WeightsError, match="pixels have 2 bands, the encoder 4"):
        Segmenter.load(tmp_path / "m")


def test_networks_as_published_take_three_bands():
    with pytest.raises(ConfigError, match=r"encoder\.name=resnet38d: takes images of three bands.*timm or unet"):
        build_encoder(EncoderConfig(name="resnet38d", bands=4))
    with pytest.raises(ConfigError, match="the data have 3"):
        tiny.recipe("encoder.bands=4")


@pytest.mark.parametrize("bands", [1, 2, 4, 7])
def test_first_layers_are_adapted_as_timm_does(bands, tmp_path):
    timm = pytest.importorskip("timm")
    settings: dict[str, Any] = {"name": "timm", "backbone": "resnet10t", "neck": "identity"}
    plain = timm.create_model("resnet10t", num_classes=0)
    save_file(plain.state_dict(), tmp_path / "w.safetensors")
    encoder = build_encoder(EncoderConfig(**settings, bands=bands, weights=tmp_path / "w.safetensors"))
    old, new = plain.state_dict()["conv1.0.weight"], encoder.backbone.taps.net.state_dict()["conv1.0.weight"]
    expected = old.sum(1, keepdim=True) if bands == 1 else old[:, [i % 3 for i in range(bands)]] * (3 / bands)
    torch.testing.assert_close(new, expected)
    assert len(encoder.normalisation.mean) == bands
    assert encoder(torch.zeros(1, bands, 64, 64)).shape[1] == 512


def turned(file: Path) -> Path:
    """A photo that EXIF says to turn by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(1).integers(0, 255, (24, 40, 3), np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, exif=exif)
    return file


def test_an_exif_orientation_is_said_once_by_each_and_applied_by_none(tmp_path, capsys, caplog):
    model = tiny_segmenters.segmenter()
    for name in ("a", "b"):
        turned(tmp_path / f"images/{name}.jpg")
    masks = api.predict(model, tmp_path / "images", out=tmp_path / "m")
    said = capsys.readouterr().err
    assert said.count("EXIF orientation in 2 of the images") == 1
    with Image.open(masks[0]) as mask:
        assert mask.size == (40, 24)
    why = api.explain(model, tmp_path / "images/a.jpg")
    assert why.size == (24, 40)
    assert [line for line in caplog.messages if "EXIF orientation" in line] == [caplog.messages[0]]
    root = tmp_path / "data"
    for number in range(4):
        turned(root / f"images/{number}.jpg")
        (root / "labels").mkdir(exist_ok=True)
        Image.fromarray(np.arange(24 * 40, dtype=np.uint8).reshape(24, 40) % 2).save(root / f"labels/{number}.png")
    (root / "classes.yaml").write_text("classes: [a, b]\nsplit: {val_fraction: 0.25}\n")
    notes, _ = start_notes(build_dataset(DataConfig(root=root), "train"), PixelRule(), own=True)
    assert len(notes) == 1
    assert "EXIF orientation in 3 of the images" in notes[0]
