"""Masks drawn from shapes, against matplotlib, pycocotools (where it is installed) and written-out cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from tiny_annotations import ANNOTATIONS, brush, compressed, runs
from tiny_layouts import image_of, mask_of, save

from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.data.layouts.run_lengths import unpack_brush, unpack_coco
from segproto.data.layouts.shapes import Runs, ellipse, fill, paint
from segproto.data.verify import verify
from segproto.errors import DataError

HEIGHT, WIDTH = 37, 45


def drawn(rings: list[np.ndarray], height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    paint(mask, fill(rings, height, width), 1)
    return mask.astype(bool)


def inside(ring: np.ndarray) -> np.ndarray:
    """Pixel centres inside, by matplotlib."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    closed = np.concatenate([ring, ring[:1]])
    return Outline(closed).contains_points(np.stack([x.ravel(), y.ravel()], 1)).reshape(HEIGHT, WIDTH)


@pytest.mark.parametrize("seed", range(20))
def test_polygons_as_matplotlib_has_them_also_beyond_the_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(3, 12))
    angle, radius = np.sort(rng.random(count) * 2 * np.pi), rng.random(count) * 25 + 4
    centre = rng.random(2) * [WIDTH, HEIGHT]
    ring = centre + np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    np.testing.assert_array_equal(drawn([ring]), inside(ring))


def test_a_ring_inside_a_ring_is_a_hole_and_a_rectangle_has_its_size() -> None:
    outer = np.array([[2, 3], [20, 3], [20, 30], [2, 30]], float)
    hole = np.array([[5, 6], [9, 6], [9, 10], [5, 10]], float)
    assert drawn([outer]).sum() == 18 * 27
    assert drawn([outer, hole]).sum() == 18 * 27 - 16
    assert drawn([outer + 100]).sum() == 0
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    u, v = (x - 20) * np.cos(np.pi / 6) + (y - 18) * np.sin(np.pi / 6), (y - 18) * np.cos(np.pi / 6) - (x - 20) * 0.5
    round_one = (u / 10) ** 2 + (v / 6) ** 2 < 1
    assert (drawn([ellipse(20, 18, 10, 6, 30)]) != round_one).sum() <= 2


@pytest.mark.parametrize("seed", range(10))
def test_run_lengths_come_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.random((7, 9)) < 0.4, np.ones((5, 5))).astype(bool)[:33, :44]
    lengths = runs(mask.T)
    np.testing.assert_array_equal(unpack_coco(compressed(lengths)), lengths)
    part = Runs(1, np.array(lengths), by_columns=True, size=mask.shape).region(*mask.shape)  # type: ignore[arg-type]
    np.testing.assert_array_equal(part.inside, mask)
    stored = unpack_brush(bytes(brush(mask)), mask.size * 4).reshape(*mask.shape, 4)
    np.testing.assert_array_equal(stored[..., 3] > 0, mask)


def test_compressed_run_lengths_are_those_of_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    for seed in range(30):
        rng = np.random.default_rng(seed)
        mask = np.asfortranarray((np.kron(rng.random((5, 6)) < 0.5, np.ones((40, 31)))).astype(np.uint8))
        text = coco.encode(mask)["counts"].decode()
        assert compressed(runs(mask.T)) == text
        part = Runs(1, unpack_coco(text), by_columns=True, size=mask.shape).region(*mask.shape)
        np.testing.assert_array_equal(part.inside, mask > 0)


def changed(tmp_path: Path, name: str, file: str, change: object) -> DataConfig:
    root = tmp_path / "export"
    ANNOTATIONS[name].make(root)
    content = json.loads((root / file).read_text())
    change(content)  # type: ignore[operator]
    (root / file).write_text(json.dumps(content))
    (root / "classes.yaml").write_text("classes: [background, cat, dog]\n")
    return DataConfig(root=root)


def test_values_are_names_which_may_be_merged_left_out_or_void(tmp_path: Path) -> None:
    config = changed(tmp_path, "COCO, polygons", "annotations/instances_default.json", lambda content: None)
    table = tmp_path / "export/classes.yaml"
    np.testing.assert_array_equal(build_dataset(config, "train")[0].mask, mask_of(0))
    table.write_text("classes: [{name: ground, values: background}, {name: animal, values: [cat, dog]}]\n")
    np.testing.assert_array_equal(build_dataset(config, "train")[0].mask, mask_of(0) > 0)
    table.write_text("classes: [{name: cat, values: cat}, {name: dog, values: dog}]\nvoid: background\n")
    np.testing.assert_array_equal(build_dataset(config, "train")[0].mask, np.array([255, 0, 1])[mask_of(0)])
    table.write_text("classes: [background, cat]\n")
    with pytest.raises(DataError, match=r"value dog in \d+ pixels is none of the classes \(background=background"):
        build_dataset(config, "train")[0]


def read_all(config: DataConfig) -> None:
    for split in ("train", "val"):
        dataset = build_dataset(config, split)
        for index in range(len(dataset)):
            dataset[index]


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("COCO, polygons", lambda c: c["annotations"][0].pop("image_id"), "annotations.0.image_id: missing"),
        ("COCO, polygons", lambda c: c["annotations"][0].update(category_id=7), "category 7, which is none"),
        (
            "COCO, RLE",
            lambda c: c["annotations"][0]["segmentation"]["counts"].append(5),
            "cannot be drawn: run lengths",
        ),
        (
            "COCO, polygons",
            lambda c: [i.update(file_name="x" + i["file_name"]) for i in c["images"]],
            "none of the 6 images",
        ),
        (
            "COCO, compressed RLE",
            lambda c: c["annotations"][0]["segmentation"].update(counts="o"),
            "end within a number",
        ),
    ],
)
def test_a_damaged_export_is_named(tmp_path: Path, file: str, change: object, words: str) -> None:
    config = changed(tmp_path, file, "annotations/instances_default.json", change)
    with pytest.raises(DataError) as caught:
        read_all(config)
    assert words in str(caught.value)
    assert "instances_default.json" in str(caught.value)
    assert verify(config).problems


def test_an_image_that_is_not_there_and_one_without_shapes(tmp_path: Path) -> None:
    def change(content: dict) -> None:
        content["images"][0]["file_name"] = "gone.jpg"
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 1]

    config = changed(tmp_path, "COCO, polygons", "annotations/instances_default.json", change)
    report = verify(config)
    assert any("1 images that annotations/instances_default.json names are not there" in note for note in report.notes)
    assert any("1 pictures have no annotation and are left out: images/o0.jpg" in note for note in report.notes)
    images = {s.name: s for split in ("train", "val") for s in build_dataset(config, split)}  # type: ignore[attr-defined]
    assert sorted(images) == ["o1", "o2", "o3", "o4", "o5"]
    assert not images["o1"].mask.any()


def test_xml_with_entities_and_brushes_without_their_images_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a/x.jpg", image_of(0))
    (tmp_path / "a/annotations.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>')
    (tmp_path / "a/classes.yaml").write_text("classes: [a]\n")
    with pytest.raises(DataError, match="declares entities"):
        build_dataset(DataConfig(root=tmp_path / "a"), "train")
    save(tmp_path / "b/images/x.jpg", image_of(0))
    save(tmp_path / "b/masks/task-1-annotation-2-by-me-tag-cat-0.png", mask_of(0))
    with pytest.raises(DataError, match="put the JSON export of the same project beside them"):
        build_dataset(DataConfig(root=tmp_path / "b"), "train")


def test_two_layouts_in_one_folder_are_asked_about(tmp_path: Path) -> None:
    ANNOTATIONS["COCO, polygons"].make(tmp_path / "export")
    for i in range(6):
        save(tmp_path / f"export/masks/o{i}.png", mask_of(i))
    (tmp_path / "export/classes.yaml").write_text("classes: [background, cat, dog]\n")
    config = DataConfig(root=tmp_path / "export")
    with pytest.raises(DataError, match=r"say which: data\.layout=pictures .* or data\.layout=coco"):
        build_dataset(config, "train")
    for layout in ("coco", "pictures"):
        dataset = build_dataset(DataConfig(root=tmp_path / "export", layout=layout), "train")
        assert len(dataset) == 5
        for k in range(5):
            np.testing.assert_array_equal(dataset[k].mask, mask_of(int(dataset[k].name[-1])))


def test_one_annotation_changed_is_one_stamp_changed(tmp_path: Path) -> None:
    config = changed(tmp_path, "COCO, polygons", "annotations/instances_default.json", lambda content: None)
    before = build_dataset(config, "train")
    file = tmp_path / "export/annotations/instances_default.json"
    content = json.loads(file.read_text())
    index = int(before.names[0][-1])
    next(a for a in content["annotations"] if a["image_id"] == index)["segmentation"][0][0] += 1
    file.write_text(json.dumps(content))
    after = build_dataset(config, "train")
    assert [before.stamp(i) == after.stamp(i) for i in range(5)] == [False, True, True, True, True]
    assert before.fingerprint != after.fingerprint
