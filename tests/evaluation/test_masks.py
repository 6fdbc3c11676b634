"""Scoring folders of masks against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, jaccard_score
from tiny_layouts import COUNT, EXPORTS

import segproto
from segproto.data.base import ClassTable
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.data.labels import LabelMap
from segproto.errors import DataError
from segproto.evaluation.masks import score_masks

TABLE = ClassTable(("sky", "tree", "car"), ((0, 0, 255), (0, 255, 0), (255, 0, 0)))


def write(path, values, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values.astype(np.uint8))
    if mode == "P":
        picture.putpalette([(7 * i) % 256 for i in range(768)])
    picture.save(path)


@pytest.fixture
def folders(tmp_path):
    """Three pairs in masks/ and gt/; 30 % wrong, 10 % void in gt."""
    rng = np.random.default_rng(0)
    true, predicted = [], []
    for i, name in enumerate(["a", "b", "deep/c"]):
        gt = rng.integers(0, 3, (12 + i, 17))
        mask = np.where(rng.random(gt.shape) < 0.3, rng.integers(0, 3, gt.shape), gt)
        gt[rng.random(gt.shape) < 0.1] = 255
        write(tmp_path / "gt" / f"{name}.png", gt, "P" if i == 1 else "L")
        write(tmp_path / "masks" / f"{name}.png", mask, "P" if i == 2 else "L")
        true.append(gt.ravel())
        predicted.append(mask.ravel())
    return tmp_path / "masks", tmp_path / "gt", np.concatenate(true), np.concatenate(predicted)


@pytest.mark.parametrize("classes", [None, 3, TABLE])
def test_scores_equal_scikit_learn(folders, classes):
    masks, gt, true, predicted = folders
    result = score_masks(masks, gt, classes=classes)
    keep = true != 255
    assert result["confusion"] == confusion_matrix(true[keep], predicted[keep]).tolist()
    assert result["miou"] == pytest.approx(jaccard_score(true[keep], predicted[keep], average="macro"))
    assert result["accuracy"] == pytest.approx((true == predicted)[keep].mean())
    assert [row["name"] for row in result["per_class"]] == (list(TABLE.names) if classes is TABLE else ["0", "1", "2"])
    assert (result["images"], result["undecided"], result["without_gt"]) == (3, 0, [])
    json.dumps(result)


def test_undecided_pixels_are_wrong(folders):
    masks, gt, _, _ = folders
    values = np.asarray(Image.open(masks / "a.png")).copy()
    truth = np.asarray(Image.open(gt / "a.png"))
    values[:6] = 255
    write(masks / "a.png", values)
    (gt.parent / "list.txt").write_text("a.png\n")
    result = score_masks(masks, gt, list_file=gt.parent / "list.txt")
    for c in range(3):
        hits = ((values == c) & (truth == c)).sum()
        union = (truth == c).sum() + ((values == c) & (truth != 255) & (truth != c)).sum()
        assert result["per_class"][c]["iou"] == pytest.approx(hits / union)
    assert result["undecided"] == (truth[:6] != 255).sum()
    assert result["accuracy"] == pytest.approx((values == truth)[truth != 255].mean())


def test_values_are_translated(folders):
    masks, gt, _, _ = folders
    expected = score_masks(masks, gt, classes=3)
    for path in gt.rglob("*.png"):
        values = np.asarray(Image.open(path)).astype(int)
        write(path, np.array([40, 10, 20, *[0] * 252, 0])[values])
    labels = LabelMap(TABLE, {40: 0, 10: 1, 20: 2, 0: 255})
    figures = score_masks(masks, gt, classes=labels)
    assert figures["confusion"] == expected["confusion"]
    assert figures["per_class"][2]["name"] == "car"
    with pytest.raises(DataError, match=r"value [124]0 "):
        score_masks(masks, gt, classes=3, void=0)


def test_void_value(folders):
    masks, gt, _, _ = folders
    expected = score_masks(masks, gt, classes=3)
    for path in gt.rglob("*.png"):
        values = np.asarray(Image.open(path))
        write(path, np.where(values == 255, 11, values))
    assert score_masks(masks, gt, classes=3, void=11)["confusion"] == expected["confusion"]
    assert score_masks(masks, gt, void=11)["confusion"] == expected["confusion"]
    with pytest.raises(DataError, match=r"value 11 .*--void"):
        score_masks(masks, gt, classes=3)


def test_list_partners_and_extra_masks(folders):
    masks, gt, _, _ = folders
    (gt / "b.png").unlink()
    result = score_masks(masks, gt)
    assert result["images"] == 2
    assert result["without_gt"] == ["b"]
    (masks / "a.png").unlink()
    with pytest.raises(DataError, match=r"masks: 1 of 2 masks are missing, first 'a'.*--list"):
        score_masks(masks, gt)
    names = gt.parent / "list.txt"
    names.write_text("deep/c\n")
    assert score_masks(masks, gt, list_file=names)["images"] == 1
    names.write_text("b\n")
    with pytest.raises(DataError, match="gt: 1 of 1 masks are missing"):
        score_masks(masks, gt, list_file=names)


def test_wrong_folders_and_sizes(folders, tmp_path):
    masks, gt, _, _ = folders
    write(masks / "b.png", np.zeros((5, 17)))
    with pytest.raises(DataError, match=r"b.png is 5 x 17 pixels, .*b.png is 13 x 17"):
        score_masks(masks, gt)
    (tmp_path / "empty").mkdir()
    for folder, text in ((tmp_path / "none", "no such folder"), (tmp_path / "empty", "no mask file")):
        with pytest.raises(DataError, match=text):
            score_masks(folder, gt)


@pytest.mark.parametrize("name", ["COCO, polygons", "labelme", "Supervisely", "YOLO segmentation"])
def test_true_masks_are_drawn_from_annotations(name, tmp_path):
    root = tmp_path / "export"
    EXPORTS[name].make(root)
    config = DataConfig(root=root)
    with pytest.raises(DataError, match="say which label is which class: --classes FILE"):
        segproto.score_masks(root, gt=root, quiet=True)
    segproto.data_init(overrides=[f"data.root={root}"], out=tmp_path / "classes.yaml", quiet=True)
    for split in ("train", "val"):
        dataset = build_dataset(config.model_copy(update={"classes": tmp_path / "classes.yaml"}), split)
        for index, image in enumerate(dataset.names):
            write(tmp_path / "masks/images" / f"{image}.png", dataset[index].mask.numpy())
    scores = segproto.score_masks(tmp_path / "masks", gt=root, classes=tmp_path / "classes.yaml", quiet=True)
    assert (scores["accuracy"], scores["images"]) == (1, COUNT)
    first = next((tmp_path / "masks").rglob("*.png"))
    write(first, np.asarray(Image.open(first)) * 0 + 255)
    assert (
        segproto.score_masks(tmp_path / "masks", gt=root, classes=tmp_path / "classes.yaml", quiet=True)["undecided"]
        > 0
    )
