"""``segproto review`` end to end on small runs: lists, page, void masks, and one line for what cannot be done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import Cli
from PIL import Image

import segproto
from segproto.data.base import SegmentationDataset
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.data.scenes import CLASSES
from segproto.errors import ConfigError, DataError, UnreadableImages
from segproto.evaluation.review.shortcuts import Shortcut, ShortcutSearch
from segproto.runs.settings import data_config

FEW = ["data.scenes.num_train=6", "data.scenes.num_val=2"]


@pytest.mark.parametrize("kind", ["scaleproto", "blackbox"])
def test_lists_page_and_void_masks(runs: Path, kind: str, tmp_path: Path) -> None:
    out, masks = tmp_path / "review", tmp_path / "masks"
    result = segproto.review(runs / kind, out=out, count=3, masks=masks, overrides=FEW, quiet=True)
    assert result["images"] == 6
    scores = [entry["score"] for entry in result["labels"]]
    assert scores == sorted(scores, reverse=True)
    assert json.loads((out / "labels.json").read_text())["labels"] == result["labels"]
    lines = (out / "labels.csv").read_text().splitlines()
    assert lines[0] == "image,box,label,suggested,score,pixels"
    assert len(lines) == 1 + len(result["labels"])
    page = (out / "index.html").read_text()
    assert page.count('<section class="entry"') == min(3, len(scores))
    dataset = build_dataset(data_config(runs / kind, {}, FEW), "train")
    for index, name in enumerate(dataset.names):
        expected = dataset[index].mask.numpy().copy()
        for entry in result["labels"][:3]:
            if entry["image"] == name:
                y0, x0, y1, x1 = entry["box"]
                inside = np.repeat(np.arange(len(entry["runs"])) % 2 == 1, entry["runs"]).reshape(y1 - y0, x1 - x0)
                assert (expected[y0:y1, x0:x1][inside] == dataset.classes.names.index(entry["label"])).all()
                expected[y0:y1, x0:x1][inside] = 255
        assert (np.array(Image.open(masks / f"{name}.png")) == expected).all()
    if result["labels"]:
        first = {**result["labels"][0], "verdict": "correct", "to": 0}
        changed = segproto.apply_decisions(runs / kind, [first], out=tmp_path / "fixed", overrides=FEW)
        assert changed in ([first["image"]], [])
    segproto.review(runs / kind, out=out, count=1, overrides=FEW, quiet=True)  # ours is replaced


def test_what_misleads_comes_first(runs: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Shortcut(4, 3, 0.02, 0.02, outside=0.8, misled=0.4, lost=0.3), Shortcut(4, None, 0.01, context=0.7)]
    monkeypatch.setattr(ShortcutSearch, "find", lambda self, contexts, progress: found)
    answer = cli("review", runs / "scaleproto", *FEW, "--out", tmp_path / "out", "-q")
    lines = answer.out.splitlines()
    assert lines[0].startswith("1. car #3: 30% of the evidence for car in training images")
    assert lines[1].startswith("2. car is recognised by its surroundings: 70%")
    page = (tmp_path / "out" / "index.html").read_text()
    assert 0 < page.index("car #3: 30%") < page.index("Suspicious labels</h2>")
    stored = json.loads((tmp_path / "out" / "labels.json").read_text())["shortcuts"]
    assert [one["words"] for one in stored] == [one.words(CLASSES.names) for one in found]
    without = segproto.review(runs / "scaleproto", out=tmp_path / "out", shortcuts=False, overrides=FEW, quiet=True)
    assert without["shortcuts"] is None
    assert "Shortcuts</h2>" not in (tmp_path / "out" / "index.html").read_text()


def test_what_cannot_be_reviewed_is_said_in_a_line(runs: Path, cli: Cli, tmp_path: Path) -> None:
    run = runs / "scaleproto"
    shutil.copytree(run / "model", tmp_path / "model")
    out = ("--out", tmp_path / "out", "-q")
    cases = [
        ((tmp_path / "model", *out), "are unknown; name them: data.root=DIR"),
        ((run, "data.name=folder", f"data.root={tmp_path / 'moved'}", *out), "moved"),
        ((run, "data.name=folder", "data.labels=null", f"data.root={tmp_path}", *out), "no masks"),
        ((run, "--split", "test", *out), "--split test: expected train or val"),
        ((run, "data.merge={thing: [car, tree]}", *out), "classes, the model"),
        ((run, *out, "--masks", tmp_path / "out"), "one lies in the other"),
        ((run, *out, "--masks", tmp_path / "out" / "masks"), "one lies in the other"),
        ((run, "--out", tmp_path / "m" / "out", "--masks", tmp_path / "m"), "one lies in the other"),
    ]
    for arguments, words in cases:
        answer = cli("review", *arguments)
        assert answer.code == 2, (arguments, answer)
        assert words in answer.err, (arguments, answer)
        assert "Traceback" not in answer.err
        assert not (tmp_path / "out").exists()


def test_a_split_whose_masks_are_not_written_is_said(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def only_train(config: DataConfig, split: str) -> SegmentationDataset:
        if split == "val":
            raise DataError("y.png: is broken")
        return build_dataset(config, split)

    monkeypatch.setattr("segproto.data.build.build_dataset", only_train)
    segproto.review(runs / "blackbox", out=tmp_path / "a", count=1, overrides=FEW, quiet=True)
    assert not caplog.messages
    segproto.review(runs / "blackbox", out=tmp_path / "b", count=1, masks=tmp_path / "m", overrides=FEW, quiet=True)
    assert caplog.messages == ["no masks of the val images are written: y.png: is broken"]


def test_ood_labels_of_every_head(runs: Path, tmp_path: Path) -> None:
    run = runs / "scaleproto"
    dataset = build_dataset(data_config(run, {}, FEW), "val")
    masks = tmp_path / "unknown"
    masks.mkdir()
    with pytest.raises(DataError, match="holds no mask"):
        segproto.evaluate(run, overrides=FEW, ood_labels=masks, quiet=True)
    for index, name in enumerate(dataset.names):
        truth = (dataset[index].mask.numpy() == 1).astype(np.uint8)
        truth[0] = 255
        Image.fromarray(truth).save(masks / f"{name}.png")
    for kind, names in (("scaleproto", ["prototype", "energy", "max_logit"]), ("blackbox", ["energy", "max_logit"])):
        figures = segproto.evaluate(runs / kind, overrides=FEW, ood_labels=masks, quiet=True)["ood"]
        assert figures["images"] == 2
        assert list(figures["scores"]) == names
        for one in figures["scores"].values():
            assert 0 <= one["auroc"] <= 1
            assert 0 <= one["fpr95"] <= 1
            assert one["unknown"] == sum((np.array(Image.open(f)) == 1).sum() for f in masks.iterdir())
    Image.fromarray(np.full((64, 64), 3, np.uint8)).save(masks / f"{dataset.names[0]}.png")
    with pytest.raises(DataError, match="other numbers"):
        segproto.evaluate(run, overrides=FEW, ood_labels=masks, quiet=True)


def test_predicted_images_are_ranked_by_how_unknown_they_are(runs: Path, tmp_path: Path) -> None:
    run, photos, ood = runs / "scaleproto", tmp_path / "photos", tmp_path / "ood"
    (photos / "sub").mkdir(parents=True)
    for number, name in enumerate(["a", "sub/b", "c"]):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels // (number + 1)).save(photos / f"{name}.png")
    (photos / "broken.png").write_bytes(b"no picture")
    for resume in (False, True):
        with pytest.raises(UnreadableImages):
            segproto.predict(run, photos, out=tmp_path / "m", ood=ood, resume=resume, quiet=True)
        listed = json.loads((ood / "images.json").read_text())["images"]
        assert sorted(one["image"] for one in listed) == ["a", "c", "sub/b"]
        scores = [one["score"] for one in listed]
        assert scores == sorted(scores, reverse=True)
        for one in listed:
            gray = np.sort(np.array(Image.open(ood / f"{one['image']}.png")).ravel())[::-1] / 255
            assert one["score"] == pytest.approx(gray[: gray.size // 100].mean(), abs=1e-6)
    (ood / "images.json").write_text("mine")
    with pytest.raises(ConfigError, match=r"images\.json"):
        segproto.predict(run, photos, out=tmp_path / "m", ood=ood, quiet=True)
    assert (ood / "images.json").read_text() == "mine"
