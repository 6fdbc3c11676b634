"""Own images of every kind that a camera or a tool leaves: read, or refused in a line that helps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.data.images import orientation
from segproto.data.pixels import levels
from segproto.data.verify import VerifyReport, verify
from segproto.errors import ConfigError, DataError, WeightsError

SIZES = {"0001": (32, 24), "0002": (40, 30), "0003": (26, 34), "0004": (64, 43), "0005": (30, 30), "0006": (50, 33)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """JPEGs of mixed sizes: one gray, one turned by EXIF; a PNG with transparency and one of 16 bits."""
    root, noise = tmp_path / "photos", np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, (width, height) in SIZES.items():
        pixels = Image.fromarray(noise.integers(0, 255, (height, width, 3), np.uint8))
        if name == "0002":
            pixels.convert("L").save(root / "images" / f"{name}.jpg")
        elif name == "0003":
            pixels.save(root / "images" / f"{name}.jpg", exif=exif)
        elif name == "0004":
            pixels.putalpha(200)
            pixels.save(root / "images" / f"{name}.png")
        elif name == "0005":
            wide = np.asarray(pixels.convert("L")).astype(np.uint16) * 257
            Image.fromarray(wide).save(root / "images" / f"{name}.png")
        else:
            pixels.save(root / "images" / f"{name}.jpg")
        mask = np.full((height, width), 2, np.uint8)
        mask[: height // 2] = 1
        Image.fromarray(mask).save(root / "labels" / f"{name}.png")
    (root / "classes.yaml").write_text("classes: [{name: sky, values: 1}, {name: road, values: 2}]\nvoid: [0]\n")
    return root


def checked(root: Path) -> VerifyReport:
    return verify(DataConfig(root=root))


def test_all_kinds_of_images_are_read_and_a_turned_one_is_noted(photos: Path) -> None:
    report = checked(photos)
    assert report.ok, report.problems
    [note] = report.notes
    assert "in 1 of the images" in note
    assert str(photos / "images" / "0003.jpg") in note
    assert "EXIF" in note
    images = {}
    for split in ("train", "val"):
        dataset = build_dataset(DataConfig(root=photos), split)
        images |= {sample.name: sample.image for sample in (dataset[i] for i in range(len(dataset)))}
    assert {name: tuple(image.shape) for name, image in images.items()} == {n: (3, h, w) for n, (w, h) in SIZES.items()}
    assert torch.equal(images["0005"][0], images["0005"][2])
    assert all(image.dtype in (torch.uint8, torch.uint16) and levels(image).std() > 10 for image in images.values())


def test_every_mistake_names_file_value_expectation_and_remedy(photos: Path) -> None:
    labels = photos / "labels"
    Image.open(labels / "0001.png").resize((16, 12), 0).save(labels / "0001.png")
    (labels / "0002.png").unlink()
    Image.open(labels / "0003.png").transpose(Image.Transpose.ROTATE_270).save(labels / "0003.png")
    mask = np.array(Image.open(labels / "0006.png"))
    mask[:3, :4] = 37
    Image.fromarray(mask).save(labels / "0006.png")
    Image.new("L", (4, 4), 1).save(labels / "0009.png")
    report = checked(photos)
    expected = {
        "0001.png": ["16x12", "32x24", "image's own size"],
        "0002.jpg": ["has no mask", str(labels / "0002.png"), "add it"],
        "0003.png": ["34x26", "26x34", "0003.jpg has EXIF orientation 6", "upright"],
        "0006.png": ["value 37", "12 pixels", "1=sky, 2=road", "classes.yaml"],
        "0009.png": ["has no image", "remove the mask"],
    }
    assert len(report.problems) == len(expected)
    for file, words in expected.items():
        [line] = [line for line in report.problems if line.startswith(str(photos)) and file in line.split(": ")[0]]
        assert all(word in line for word in words), line
        assert "\n" not in line


def test_training_refuses_a_missing_mask_with_its_name_and_place(photos: Path) -> None:
    (photos / "labels" / "0002.png").unlink()
    split = {"val_pattern": "0006"}
    with pytest.raises(DataError) as caught:
        build_dataset(DataConfig(root=photos, split=split), "train")
    for words in (str(photos / "images" / "0002.jpg"), str(photos / "labels" / "0002.png"), "segproto data verify"):
        assert words in str(caught.value)
    config = DataConfig(root=photos, split=split, label_suffix="_mask")
    with pytest.raises(DataError, match=r"0001_mask\.png .*none of 6 images has one; what is there"):
        build_dataset(config, "train")


@pytest.mark.parametrize("value", range(1, 9))
def test_orientations(value: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", exif=exif)
    assert orientation(tmp_path / "a.jpg") == value


def test_a_folder_that_is_not_there_is_taken_for_a_folder() -> None:
    from segproto.cli.info import as_setting

    with pytest.raises(DataError, match=r"'fotos' is neither .* expected a folder or archive .* of images and masks"):
        as_setting("fotos")


def test_weights_of_another_kind_are_refused_without_bad_advice(tmp_path: Path) -> None:
    from segproto.encoders.weights import read_state

    (tmp_path / "a.pth").write_text("classes: [a, b]\n")
    torch.save({"state": object}, tmp_path / "b.pth")
    for name in ("a.pth", "b.pth"):
        with pytest.raises(WeightsError) as caught:
            read_state(tmp_path / name)
        assert "segproto convert" in str(caught.value)
        assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [("vit_tiny", "vit_tiny_patch16_224"), ("vit_tiny_patch61_224", "vit_tiny_patch16_224"), ("resnet5", "resnet50")],
)
def test_a_backbone_that_timm_does_not_know_brings_near_names(name: str, near: str) -> None:
    from segproto.encoders.config import EncoderConfig
    from segproto.encoders.timm_backbone import TimmBackbone

    with pytest.raises(ConfigError, match=near):
        TimmBackbone(EncoderConfig(name="timm", backbone=name), load_weights=False)


def test_a_folder_is_no_picture_and_a_missing_one_is_said_to_be_missing(tmp_path: Path) -> None:
    from segproto.data.below import images_below
    from segproto.data.picture import read_image

    with pytest.raises(DataError, match="is a folder; expected one picture file"):
        read_image(tmp_path)
    with pytest.raises(DataError, match="imgs: no such file or folder; expected an image"):
        images_below(tmp_path / "imgs")
    with pytest.raises(DataError, match="no image there"):
        images_below(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("classes:\n  a: 1\n  b: 2\n", ["classes: expected classes: [{name: ..., values: 1}, ...]"]),
        ("classes: []\n", ["classes: expected at least 1 class, as in classes: [{name: ..., values: 1}, ...]"]),
        ("classes: [a, 1]\n", ['classes: 1 is a number; quote the name: "1"']),
        ("classes: [a, b]\nsplit: {val_fraction: 20}\n", ["split.val_fraction: expected less than 1, found 20"]),
        ("classes:\n- {name: a, value: 1}\n", ["unknown key 'classes.0.value'; did you mean 'values'?"]),
        ("classes:\n- {name: a, values: 1}\n- {name: b, values: 1}\n", ["value 1 belongs to both 'a' and 'b'"]),
    ],
)
def test_mistakes_in_the_class_table(content: str, words: list[str], tmp_path: Path) -> None:
    from segproto.data.classes import read_classes

    (tmp_path / "classes.yaml").write_text(content)
    with pytest.raises(DataError) as caught:
        read_classes(tmp_path / "classes.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'classes.yaml'}: ")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_text_that_yaml_takes_for_a_number_is_to_be_quoted_in_a_recipe() -> None:
    from segproto.runs.settings import data_config

    with pytest.raises(ConfigError, match=r"data\.split\.val_pattern = 6: expected text, .* quote it: 'data\.split"):
        data_config(None, {"split": {"val_pattern": 6}}, ["data.root=x"])
    assert data_config(None, {}, ["data.root=x", "split.val_pattern=0006"]).split.val_pattern == "0006"
    assert data_config(None, {}, ["data.root=x", 'split.val_pattern="0006"']).split.val_pattern == "0006"


@pytest.mark.precision
def test_images_that_moved_are_named_to_every_verb(photos: Path, tmp_path: Path) -> None:
    import segproto

    small = ["encoder.name=unet", "encoder.backbone=null", "encoder.layers=null", "encoder.frozen=false"]
    small += ["encoder.layer_norm=false", "encoder.output_stride=4", "encoder.width=4", "encoder.rates=[1]"]
    small += ["encoder.dim=8", "encoder.reduce=null", "train.cache_features=false", "train.batch_size=2"]
    small += ["stages.joint.steps=2", "data.augment.crop=32", f"data.root={photos}"]
    run = tmp_path / "run"
    segproto.train("blackbox/folder", out=run, overrides=small, quiet=True)
    photos.rename(tmp_path / "moved")
    for verb in (segproto.evaluate, segproto.write_report):
        with pytest.raises(DataError, match=r"photos is not a folder; set data\.root=DIR"):
            verb(run)
    there = [f"data.root={tmp_path / 'moved'}"]
    assert segproto.evaluate(run, overrides=there)["images"] == 1
    assert segproto.write_report(run, overrides=there, images=1).is_file()


def test_a_frozen_backbone_without_weights_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    from segproto.encoders.build import build_encoder
    from segproto.encoders.config import EncoderConfig

    settings = {"name": "unet", "output_stride": 4, "width": 4, "neck": "identity", "squash": "none", "frozen": True}
    build_encoder(EncoderConfig.model_validate(settings))
    assert "warning: the frozen backbone has random weights and will not learn; set encoder.weights=FILE" in caplog.text
