"""Stages of pixelcontrast from published products, and published image-level labels; nothing in a file is run."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segproto.data.base import Sample
from segproto.data.build import build_dataset
from segproto.data.classes import EXAMPLES, read_classes
from segproto.data.tags import read_tags, tags_of_masks
from segproto.errors import ConfigError, DataError
from segproto.methods.pixelcontrast import METHOD
from segproto.methods.pixelcontrast.config import PixelcontrastRecipe
from segproto.methods.pixelcontrast.products import read_scores
from segproto.methods.pixelcontrast.published import (
    published_cams,
    published_mask,
    published_scores,
    read_published,
)
from segproto.runs.catalogue import read_recipe
from segproto.training.recipe import apply_overrides, validate_recipe
from segproto.training.runner import run

VOC = read_classes(EXAMPLES / "voc.yaml").labels.table
SAMPLE = Sample(torch.zeros(3, 5, 6, dtype=torch.uint8), torch.zeros(5, 6, dtype=torch.uint8), "2007_000032")
RANDOM = np.random.default_rng(0)


def maps(*keys: int) -> dict[int, np.ndarray]:
    return {key: RANDOM.random((5, 6), np.float32) for key in keys}


def save(path: Path, value: Any) -> Path:
    """As the published codes do; a dict ends up pickled."""
    np.save(path, value, allow_pickle=True)
    return path


def test_maps_of_a_pickled_dict(tmp_path: Path) -> None:
    value = maps(14, 0)
    value[14][0, 0] = -1e-5  # as published where a map is smallest
    save(tmp_path / "2007_000032.npy", value)
    cams = published_cams(tmp_path, SAMPLE, [1, 15], 21)
    assert cams["classes"].tolist() == [1, 15]
    np.testing.assert_array_equal(cams["maps"].numpy(), np.stack([value[0], value[14].clip(0, 1)]))
    nested = SAMPLE._replace(name="JPEGImages/2007_000032")
    assert torch.equal(published_cams(tmp_path, nested, [1, 15], 21)["maps"], cams["maps"])


@pytest.mark.parametrize("channels", [20, 21])
def test_maps_of_an_array(tmp_path: Path, channels: int) -> None:
    value = RANDOM.random((channels, 5, 6), np.float32)
    save(tmp_path / "2007_000032.npy", value)
    cams = published_cams(tmp_path, SAMPLE, [3, 20], 21)
    np.testing.assert_array_equal(cams["maps"].numpy(), value[[channels - 18, channels - 1]])


def test_scores_after_a_crf_as_dict_and_as_array(tmp_path: Path) -> None:
    (tmp_path / "la").mkdir()
    (tmp_path / "ha").mkdir()
    low, high = maps(0, 1, 15), RANDOM.random((21, 5, 6), np.float32)
    save(tmp_path / "la/2007_000032.npy", low)
    save(tmp_path / "ha/2007_000032.npy", high)  # the form that the published loader itself could not read
    scores = published_scores(tmp_path / "la", tmp_path / "ha", SAMPLE, [1, 15], 21)
    assert scores["classes"].tolist() == [0, 1, 15]
    np.testing.assert_array_equal(scores["low"].numpy(), np.stack([low[k] for k in (0, 1, 15)]))
    np.testing.assert_array_equal(scores["high"].numpy(), high[[0, 1, 15]])


def test_masks_of_pictures_and_of_scores(tmp_path: Path) -> None:
    mask = RANDOM.integers(0, 21, (5, 6), np.uint8)
    mask[0, 0] = 255
    Image.fromarray(mask).save(tmp_path / "2007_000032.png")
    np.testing.assert_array_equal(published_mask(tmp_path, SAMPLE, 21).numpy(), mask)
    (tmp_path / "2007_000032.png").unlink()
    scores = maps(0, 5, 9)
    save(tmp_path / "2007_000032.npy", scores)
    wanted = np.array([0, 5, 9])[np.stack([scores[k] for k in (0, 5, 9)]).argmax(0)]
    np.testing.assert_array_equal(published_mask(tmp_path, SAMPLE, 21).numpy(), wanted)


class Attack:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({20: np.zeros((5, 6))}, r"the class 20; expected 0\.\.19"),
        ({"cat": np.zeros((5, 6))}, "the class 'cat'"),
        ({0: np.zeros((5, 6)), 1: np.zeros((6, 5))}, "maps of sizes"),
        ({0: np.full((5, 6), np.nan)}, "infinite values or none"),
        ({0: np.zeros((9, 6))}, r"is 6x9, the image '2007_000032' is 6x5 \(width x height\)"),
        ({3: np.zeros((5, 6))}, r"has the classes \[4\], the image's tags are \[1\]"),
        (np.zeros((7, 5, 6)), r"holds an array of shape \(7, 5, 6\); expected maps by class, or an array of 20"),
        ({}, "holds a dict"),
        ({0: np.full((5, 6), 200, np.uint8)}, r"maps with values up to 200; expected 0\.\.1"),
        ({0: Attack()}, "os.system|posix.system"),
    ],
)
def test_bad_products_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "2007_000032.npy", value)
    with pytest.raises(DataError, match=message) as caught:
        published_cams(tmp_path, SAMPLE, [1], 21)
    assert "2007_000032.npy" in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_missing_and_half_written_products_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the published file of '2007_000032' is missing"):
        published_cams(tmp_path, SAMPLE, [1], 21)
    file = save(tmp_path / "2007_000032.npy", maps(0))
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"2007_000032\.npy: not read"):
        read_published(file, 21, first=1, own="maps")
    Image.fromarray(np.full((5, 6), 21, np.uint8)).save(tmp_path / "2007_000032.png")
    with pytest.raises(DataError, match="the value 21; expected classes"):
        published_mask(tmp_path, SAMPLE, 21)


SMALL = [
    "data.scenes.size=48",
    "data.scenes.num_train=3",
    "data.scenes.num_val=1",
    "data.augment.crop=48",
    "encoder.width=4",
    "encoder.dim=8",
    "encoder.rates=[1,2]",
    "train.batch_size=3",
    "train.threads=1",
    "train.accelerator=cpu",
    "stages.contrast.steps=0",
    "stages.affinity.steps=1",
    "stages.segment.steps=1",
    "stages.masks.log_steps=1",
]


def recipe(*more: str) -> PixelcontrastRecipe:
    value = apply_overrides(read_recipe(f"{METHOD.name}/scenes"), [*SMALL, *more])
    return validate_recipe(value, METHOD.recipe)  # type: ignore[return-value]


@pytest.mark.precision
def test_a_run_from_published_products(tmp_path: Path) -> None:
    """Maps, scores and masks of another code, each in its place; what follows is made of them."""
    dataset = build_dataset(recipe().data, "train")
    count, tags = dataset.classes.num_classes, tags_of_masks(dataset)
    for folder in ("cam", "la", "ha", "rw"):
        (tmp_path / folder).mkdir()
    for i, name in enumerate(dataset.names):
        present = [c for c in tags[i].nonzero().flatten().tolist() if c]
        perfect = {c: (dataset[i].mask == c).float().numpy() * 0.9 for c in (0, *present)}
        save(tmp_path / f"cam/{name}.npy", {c - 1: perfect[c] for c in present})
        save(tmp_path / f"la/{name}.npy", perfect)
        save(
            tmp_path / f"ha/{name}.npy",
            np.stack([perfect.get(c, np.zeros((48, 48), np.float32)) for c in range(count)]),
        )
        Image.fromarray((dataset[i].mask.numpy() + 1) % count).save(tmp_path / f"rw/{name}.png")
    given = [f"stages.cams.given={tmp_path}/cam"]
    given += [f"stages.crf.given_low={tmp_path}/la", f"stages.crf.given_high={tmp_path}/ha"]
    run(METHOD, recipe(*given, f"stages.masks.given={tmp_path}/rw"), tmp_path / "run", quiet=True)
    result = json.loads((tmp_path / "run/stages/cams/result.json").read_text())
    assert result["cam_miou"] > 0.999
    scores = read_scores(tmp_path / f"run/stages/crf/scores/{dataset.names[0]}.npz")
    assert torch.equal(scores["low"], scores["high"])
    assert json.loads((tmp_path / "run/stages/affinity/result.json").read_text())["steps"] == 1
    for i, name in enumerate(dataset.names):
        mask = np.asarray(Image.open(tmp_path / f"run/masks/labels/{name}.png"))
        np.testing.assert_array_equal(mask, (dataset[i].mask.numpy() + 1) % count)
    with pytest.raises(ConfigError, match="come in pairs"):
        recipe(f"stages.crf.given_low={tmp_path}/la")


def label_file(path: Path, table: dict[Any, Any]) -> Path:
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.array(table, dtype=object), allow_pickle=True)
    return path


def vector(*classes: int) -> np.ndarray:
    tags = np.zeros(20, np.float32)
    tags[list(classes)] = 1
    return tags


def test_label_vectors_with_names_and_with_numbers(tmp_path: Path) -> None:
    wanted = torch.zeros(2, 21)
    wanted[0, [0, 1, 15]] = 1
    wanted[1, [0, 20]] = 1
    names = ["2007_000032", "JPEGImages/2011_003276"]
    table = {"2007_000032": vector(0, 14), "2011_003276": vector(19), "2008_000001": vector(1)}
    assert torch.equal(read_tags(label_file(tmp_path / "a.npy", table), VOC, names), wanted)
    numbers = {int(name.replace("_", "")): value for name, value in table.items()}
    assert torch.equal(read_tags(label_file(tmp_path / "b.npy", numbers), VOC, names), wanted)
    nothing = label_file(tmp_path / "c.npy", {"2007_000032": vector()})
    assert read_tags(nothing, VOC, names[:1]).nonzero().tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"2007_000033": vector(1)}, "1 of 1 images have no entry, first '2007_000032'"),
        ({"2007_000032": vector(1)[:19]}, r"has shape \(19,\); expected 20 numbers"),
        ({"2007_000032": vector(1) * 3}, "expected 20 numbers 0 or 1"),
        ({"2007_000032": [1, 2]}, "has list"),
        ({"2007_000032": Attack()}, "system"),
    ],
)
def test_bad_label_vectors_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        read_tags(label_file(tmp_path / "a.npy", value), VOC, ["2007_000032"])
    assert not (tmp_path / "executed").exists()
    with pytest.raises(DataError, match=r"none\.npy: no such file"):
        read_tags(tmp_path / "none.npy", VOC, ["2007_000032"])
    (tmp_path / "list.npy").write_bytes(pickle.dumps([1]))
    with pytest.raises(DataError, match=r"list\.npy"):
        read_tags(tmp_path / "list.npy", VOC, ["2007_000032"])


def annotation(*objects: str, head: str = "") -> str:
    part = "<part><name>head</name></part>"
    rows = "".join(f"<object><name>{o}</name><difficult>1</difficult>{part}</object>" for o in objects)
    return f"{head}<annotation><filename>a.jpg</filename>{rows}</annotation>"


def test_labels_of_xml_annotations(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(annotation("person", "dog", "person"))
    (tmp_path / "b.xml").write_text(annotation("aeroplane"))
    tags = read_tags(tmp_path, VOC, ["a", "x/b"])
    assert [row.nonzero().flatten().tolist() for row in tags] == [[0, 12, 15], [0, 1]]
    (tmp_path / "c.xml").write_text(annotation())
    assert read_tags(tmp_path, VOC, ["c"]).nonzero().tolist() == [[0, 0]]
    bomb = '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]>'
    for text, message in (
        (annotation("yeti"), r"a\.xml: the object 'yeti' is no class"),
        (annotation("dog", head=bomb), "declares entities"),
        (annotation("dog")[:-4], "cannot be read"),
    ):
        (tmp_path / "a.xml").write_text(text)
        with pytest.raises(DataError, match=message):
            read_tags(tmp_path, VOC, ["a"])
    with pytest.raises(DataError, match=r"none\.xml: no such file"):
        read_tags(tmp_path, VOC, ["none"])


def test_labels_of_masks_leave_void_and_background_out(tmp_path: Path) -> None:
    from segproto.data.config import DataConfig

    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name, values in (("a", [0, 2, 255]), ("b", [1, 1, 1])):
        Image.fromarray(np.zeros((1, 3, 3), np.uint8)).save(tmp_path / f"images/{name}.png")
        Image.fromarray(np.array([values], np.uint8)).save(tmp_path / f"labels/{name}.png")
    (tmp_path / "classes.yaml").write_text("classes: [bg, cat, dog]\nvoid: [255]\nsplit: {val_pattern: b}\n")
    data = build_dataset(DataConfig(name="folder", root=tmp_path), "train")
    assert tags_of_masks(data).tolist() == [[1, 0, 1]]


@pytest.mark.data
def test_the_released_labels() -> None:
    root = Path(os.environ.get("SEGPROTO_DATA", "")) / "voc12_lists"
    file = root / "cls_labels.npy"
    if not file.is_file():
        pytest.skip("no voc12_lists in $SEGPROTO_DATA")
    assert hashlib.sha256(file.read_bytes()).hexdigest().startswith("0dcf22b5")
    names = {
        part: [
            line.split()[0].rpartition("/")[2].removesuffix(".jpg") for line in (root / part).read_text().splitlines()
        ]
        for part in ("train_aug.txt", "trainaug_val.txt")
    }
    everywhere = names["trainaug_val.txt"]
    tags = read_tags(file, VOC, everywhere)[:, 1:]
    assert len(tags) == 12_031
    assert (tags.sum(1).min(), tags.sum(1).max()) == (1, 6)
    row = {name: number for number, name in enumerate(everywhere)}
    own = tags[[row[name] for name in names["train_aug.txt"]]]
    assert len(own) == 10_582
    assert round(own.sum(1).mean().item(), 3) == 1.555
    counts = "590 504 705 468 714 393 1150 1005 1228 267 613 1188 445 492 4155 522 300 649 503 567"
    assert own.sum(0).tolist() == [float(c) for c in counts.split()]
