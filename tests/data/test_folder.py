"""A user's folder: pairs, splits and mistakes; and the real sets, where $SEGPROTO_DATA is at hand."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.data.verify import verify
from segproto.errors import DataError

needs_data = pytest.mark.skipif("SEGPROTO_DATA" not in os.environ, reason="SEGPROTO_DATA is not set")


def add(root: Path, name: str, values: int = 2, folders: tuple[str, str] = ("images", "labels"), seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for folder, array in zip(folders, (rng.integers(0, 256, (6, 8, 3)), rng.integers(0, values, (6, 8))), strict=True):
        path = root / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array.astype(np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    for i in range(10):
        add(tmp_path, f"{'ab'[i % 2]}/pic{i}", seed=i)
    (tmp_path / "classes.yaml").write_text("classes: [sky, road]")
    return tmp_path


def names(config: DataConfig) -> tuple[set[str], set[str]]:
    return set(build_dataset(config, "train").names), set(build_dataset(config, "val").names)


def test_images_without_masks(tmp_path: Path) -> None:
    """``labels: null``: all images unless there is a rule for the split."""
    for name in ("a", "b", "c"):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "classes.yaml").write_text("classes: [ground, cat]\n")
    plain = {"name": "folder", "root": tmp_path, "labels": None}
    dataset = build_dataset(DataConfig(**plain), "train")
    assert (dataset.names, dataset.classes.names) == (("a", "b", "c"), ("ground", "cat"))
    assert (dataset[1].mask == 255).all()
    (tmp_path / "some.txt").write_text("c\na\n")
    by_list = DataConfig(**plain, split={"train_list": "some.txt"})
    assert build_dataset(by_list, "train").names == ("c", "a")
    assert build_dataset(by_list, "val").names == ("b",)
    (tmp_path / "some.txt").write_text("c\nd\n")
    with pytest.raises(DataError, match="no image file for 'd'"):
        build_dataset(by_list, "train")
    with pytest.raises(ValueError, match="labels = null"):
        DataConfig(name="voc", labels=None)
    with pytest.raises(DataError, match=r"labels: no such folder.*or to null if there are tags alone"):
        build_dataset(DataConfig(name="folder", root=tmp_path), "train")


def test_samples_are_the_files(root):
    data = build_dataset(DataConfig(root=root, split={"val_pattern": "^b/"}), "train")
    assert data.names == tuple(f"a/pic{i}" for i in range(0, 10, 2))
    sample = data[1]
    np.testing.assert_array_equal(sample.image.permute(1, 2, 0), np.asarray(Image.open(root / "images/a/pic2.png")))
    np.testing.assert_array_equal(sample.mask, np.asarray(Image.open(root / "labels/a/pic2.png")))
    assert sample.name == "a/pic2"
    assert data.path(1) == root / "images/a/pic2.png"


def test_split_by_fraction_is_disjoint_complete_and_seeded(root):
    everything = {f"{'ab'[i % 2]}/pic{i}" for i in range(10)}
    by_seed = []
    for seed in (0, 0, 1):
        train, val = names(DataConfig(root=root, split={"val_fraction": 0.3, "seed": seed}))
        assert train | val == everything
        assert not train & val
        assert len(val) == 3
        by_seed.append(val)
    assert by_seed[0] == by_seed[1] != by_seed[2]
    assert len(names(DataConfig(root=root))[1]) == 2
    resolved = DataConfig.model_validate(DataConfig(root=root, split={"seed": 3}).model_dump(mode="json"))
    assert len(names(resolved)[1]) == 2


def test_split_by_lists(root):
    (root / "train.txt").write_text("a/pic2\n\n# note\nb/pic1.png\n")
    (root / "val.txt").write_text("a/pic0\n")
    assert names(DataConfig(root=root)) == ({"a/pic2", "b/pic1"}, {"a/pic0"})
    train, val = names(DataConfig(root=root, split={"val_list": "val.txt"}))
    assert val == {"a/pic0"}
    assert len(train) == 9
    (root / "val.txt").write_text("a/pic2\n")
    with pytest.raises(DataError, match="both list 'a/pic2'"):
        build_dataset(DataConfig(root=root), "train")
    (root / "val.txt").write_text("a/none\n")
    with pytest.raises(DataError, match="no image file for 'a/none'"):
        build_dataset(DataConfig(root=root), "val")
    with pytest.raises(DataError, match="lists 'a/none', which is no image"):
        build_dataset(DataConfig(root=root, split={"val_list": "val.txt"}), "train")


def test_list_beside_the_yaml_comes_first(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("tables")
    (other / "c.yaml").write_text("classes: [sky, road]\nsplit: {val_list: val.txt}")
    (other / "val.txt").write_text("b/pic3\n")
    (root / "val.txt").write_text("a/pic0\n")
    assert names(DataConfig(root=root, classes=other / "c.yaml"))[1] == {"b/pic3"}


def test_split_by_folder(root):
    assert names(DataConfig(root=root, split={"train_folder": "a", "val_folder": "b"}))[1] == {
        f"pic{i}" for i in range(1, 10, 2)
    }


def test_train_and_val_folders_are_found(tmp_path):
    for split in ("train", "val"):
        add(tmp_path, f"{split}/one")
        add(tmp_path, f"only_{split}", folders=(f"{split}/img", f"{split}/gt"))
    (tmp_path / "classes.yaml").write_text("classes: [sky, road]")
    assert names(DataConfig(root=tmp_path)) == ({"one"}, {"one"})
    config = DataConfig(root=tmp_path, images="{split}/img", labels="{split}/gt")
    assert names(config) == ({"only_train"}, {"only_val"})


def test_suffixes_in_one_folder(tmp_path):
    for i in range(4):
        add(tmp_path, f"p{i}", folders=("images", "labels"))
        (tmp_path / f"images/p{i}.png").rename(tmp_path / f"images/p{i}_rgb.png")
        (tmp_path / f"labels/p{i}.png").rename(tmp_path / f"images/p{i}_mask.png")
    (tmp_path / "classes.yaml").write_text("classes: [sky, road]")
    config = DataConfig(root=tmp_path, labels="images", image_suffix="_rgb", label_suffix="_mask")
    train, val = names(config)
    assert train | val == {"p0", "p1", "p2", "p3"}


def test_fingerprint_follows_the_files(root):
    config = DataConfig(root=root)
    before = build_dataset(config, "train").fingerprint
    assert build_dataset(config, "train").fingerprint == before
    name = build_dataset(config, "train").names[0]
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(root / f"labels/{name}.png")
    assert build_dataset(config, "train").fingerprint != before


def test_mistakes_are_one_clear_line(root, tmp_path_factory):
    def complaint(which="train", **settings):
        with pytest.raises(DataError) as caught:
            build_dataset(DataConfig(**settings), which)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "data.root is not set" in complaint()
    assert "not a folder" in complaint(root=root / "none")
    assert "variable that is not set" in complaint(root="$NO_SUCH_VARIABLE/x")
    assert "no such folder; set data.labels" in complaint(root=root, labels="masks")
    assert "holds no image" in complaint(root=root, image_suffix="_x")
    assert "val split is empty" in complaint("val", root=root, split={"val_pattern": "zzz"})
    assert "split 'test' is unknown" in complaint("test", root=root)
    Image.new("RGB", (8, 6)).save(root / "images/a/pic0.jpg")
    assert "same name" in complaint(root=root)
    (root / "images/a/pic0.jpg").unlink()
    (root / "labels/a/pic0.png").unlink()
    assert "images/a/pic0.png: has no mask; expected" in complaint(root=root, split={"val_pattern": "^b"})


def test_mask_of_another_size_is_named(root):
    Image.new("L", (9, 6)).save(root / "labels/a/pic0.png")
    data = build_dataset(DataConfig(root=root, split={"val_pattern": "^b"}), "train")
    with pytest.raises(DataError, match=r"labels/a/pic0\.png: the mask is 9x6 pixels .* its image 8x6"):
        data[0]


def test_verify_reports_every_problem_once(root):
    config = DataConfig(root=root, split={"val_pattern": "pic[89]"})
    assert verify(config).ok
    (root / "labels/a/pic0.png").unlink()
    (root / "images/a/pic2.png").unlink()
    Image.new("L", (9, 6)).save(root / "labels/a/pic4.png")
    Image.fromarray(np.full((6, 8), 37, np.uint8)).save(root / "labels/b/pic1.png")
    broken = root / "images/b/pic3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (root / "classes.yaml").write_text("classes: [sky, road, ship]")
    report = verify(config)
    expected = [
        "images/a/pic0.png: has no mask",
        "labels/a/pic2.png: has no image",
        "labels/a/pic4.png: the mask is 9x6",
        "labels/b/pic1.png: value 37",
        "images/b/pic3.png: ",
        "class 'ship' has no pixel in the train split",
    ]
    for text in expected:
        assert sum(text in line for line in report.problems) == 1, text
    assert len(report.problems) == len(expected)
    assert report.notes == ["class 'ship' has no pixel in the val split"]
    assert not report.ok


def test_verify_counts_pixels(root):
    (root / "classes.yaml").write_text("classes: [{name: sky, values: 0}]\nvoid: [1]")
    report = verify(DataConfig(root=root))
    masks = np.stack([np.asarray(Image.open(p)) for p in root.glob("labels/*/*.png")])
    assert sum(int(s.pixels[0]) for s in report.splits.values()) == (masks == 0).sum()
    assert sum(s.void for s in report.splits.values()) == (masks == 1).sum()
    assert sum(s.sizes[(6, 8)] for s in report.splits.values()) == 10


def test_verify_answers_a_hopeless_folder(tmp_path):
    report = verify(DataConfig(root=tmp_path))
    assert len(report.problems) == 1
    assert "none of the known layouts: no picture there" in report.problems[0]


@needs_data
@pytest.mark.data
def test_real_camvid():
    config = DataConfig(name="camvid", root="$SEGPROTO_DATA/camvid")
    train, val = build_dataset(config, "train"), build_dataset(config, "val")
    assert (len(train), len(val), train.classes.num_classes) == (367, 101, 11)
    assert not set(train.names) & set(val.names)
    sample = val[0]
    assert sample.image.shape == (3, 360, 480)
    assert sample.mask.shape == (360, 480)
    assert set(sample.mask.unique().tolist()) <= {*range(11), 255}


@needs_data
@pytest.mark.data
@pytest.mark.parametrize(("name", "train", "val"), [("dubai_aerial", 36, 9), ("msrc21", 279, 116)])
def test_real_folders_with_a_shipped_table(name, train, val):
    report = verify(DataConfig(root=f"$SEGPROTO_DATA/{name}", classes=name))
    assert report.problems == []
    assert report.notes == []
    assert (report.splits["train"].images, report.splits["val"].images) == (train, val)


@needs_data
@pytest.mark.data
def test_real_splits_follow_their_rules():
    val = build_dataset(DataConfig(root="$SEGPROTO_DATA/dubai_aerial", classes="dubai_aerial"), "val")
    assert all(name.startswith("tile4_") for name in val.names)
    config = DataConfig(root="$SEGPROTO_DATA/msrc21", classes="msrc21")
    every = sorted([*build_dataset(config, "train").names, *build_dataset(config, "val").names])
    expected = set()
    for scene in {name.split("_")[0] for name in every}:
        inside = sorted((n for n in every if n.split("_")[0] == scene), key=lambda n: int(n.split("_")[1]))
        expected |= {name for i, name in enumerate(inside) if i % 7 in (2, 5)}
    assert set(build_dataset(config, "val").names) == expected
