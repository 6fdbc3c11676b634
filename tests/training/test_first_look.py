"""What is said and refused before the first step, about classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Cli
from PIL import Image
from tiny_folders import folder

import segproto
from segproto.errors import DataError
from segproto.evaluation.absent import absent_words

UNET = ["data.name=folder", "encoder.width=4", "encoder.dim=8", "encoder.rates=[1,2]"]
SHORT = ["train.batch_size=2", "train.precision=32-true", "data.augment.crop=32", "data.augment.scale=[1,1]"]


def train(recipe: str, root: Path, out: Path, *more: str) -> dict[str, object]:
    settings = [f"data.root={root}", *UNET, *SHORT, *more]
    return segproto.train(recipe, out=out, overrides=settings, quiet=True).figures


def test_masks_of_0_and_255_are_refused_with_the_line_that_mends_them(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", 255, "classes: [background, object]\n")
    with pytest.raises(DataError, match=r"If 255 is object, write in classes.yaml `- name: object` with `values: 255`"):
        train("blackbox/scenes", root, tmp_path / "run", "stages.joint.steps=1")
    assert not (tmp_path / "run" / "recipe.yaml").exists()
    (root / "classes.yaml").write_text("classes: [{name: background, values: 0}, {name: object, values: 255}]\n")
    figures = train("blackbox/scenes", root, tmp_path / "run", "stages.joint.steps=1")
    assert absent_words(figures["per_class"]) == ""


def test_void_that_is_written_down_is_void_and_the_missing_class_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder(tmp_path / "data", 255, "classes: [background, object]\nvoid: [255]\n")
    settings = [f"data.root={root}", *UNET, *SHORT, "stages.joint.steps=1"]
    result = segproto.train("blackbox/scenes", out=tmp_path / "run", overrides=settings)
    told = capsys.readouterr().err
    assert "1 of 2 classes in none of the 4 training images: object" in told
    assert "over 1 of 2 classes (not in these images: object)" in told or result.figures["miou"] < 1
    rows = segproto.compare([tmp_path / "run"])["rows"]
    assert "of 2 classes (not in these images: object)" in rows[0]["absent"]


def test_a_class_without_a_cell_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    classes = "classes: [background, object, dog]\n"
    root = folder(tmp_path / "data", 1, classes)
    with pytest.raises(DataError, match=r"no cell of class dog in the 4 training images.*stages.project.absent=drop"):
        train("scaleproto/scenes", root, tmp_path / "run")
    assert not (tmp_path / "run" / "stages").exists()


def test_one_pixel_that_no_cell_takes_is_found_too(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", 1, "classes: [background, dot]\n", side=1)
    with pytest.raises(DataError, match="no cell of class dot"):
        train("scaleproto/scenes", root, tmp_path / "run")


def test_words_about_absent_classes() -> None:
    rows = [{"name": "a", "iou": 1.0, "pixels": 4}, {"name": "b", "iou": None, "pixels": 0}]
    assert absent_words(rows) == " over 1 of 2 classes (not in these images: b)"
    assert absent_words(rows[:1]) == ""


def test_masks_of_0_and_255_come_back_and_score_as_the_model_does(tmp_path: Path, cli: Cli) -> None:
    classes = "classes: [{name: background, values: 0}, {name: object, values: 255}]\n"
    root, run = folder(tmp_path / "data", 255, classes), tmp_path / "run"
    train("blackbox/scenes", root, run, "stages.joint.steps=4", "data.window=32")
    told = cli("predict", run, root / "images", "--out", tmp_path / "indices").out
    assert "class indices (0 background, 1 object); your masks had 0, 255: --values classes" in told
    assert (
        "(0 background, 255 object)" in cli("predict", run, root, "--out", tmp_path / "own", "--values", "classes").out
    )
    for name in (f"{i}.png" for i in range(5)):
        own = np.array(Image.open(tmp_path / "own" / "images" / name))
        assert np.array_equal(own, 255 * np.array(Image.open(tmp_path / "indices" / name)))
        (root / "labels" / name).rename(root / "labels" / f"{name[:-4]}_mask.png")
    gt = ["--gt", root / "labels", "--gt-suffix", "_mask", "--classes", root / "classes.yaml"]
    indices = cli("evaluate", "--masks", tmp_path / "indices", *gt, "--json")
    own = cli("evaluate", "--masks", tmp_path / "own" / "images", *gt, "--values", "classes", "--json")
    assert json.loads(indices.out)["confusion"] == json.loads(own.out)["confusion"]
    overrides = ["data.label_suffix=_mask"]
    by_split = [segproto.evaluate(run, split=s, overrides=overrides, quiet=True) for s in ("train", "val")]
    counts = sum(np.array(figures["confusion"]) for figures in by_split)
    assert json.loads(own.out)["confusion"] == counts.tolist()
    assert segproto.load(run).encoder.view.window == 32
