"""Generated scenes: deterministic, complete, balanced, and not to be solved by colour."""

import time

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from segproto.data.build import build_dataset
from segproto.data.config import DataConfig, ScenesConfig
from segproto.data.scene_objects import KINDS
from segproto.data.scenes import CLASSES, PART_NAMES, ScenesDataset, render


@pytest.fixture(scope="module")
def train():
    return ScenesDataset(ScenesConfig(num_train=250), "train")


@pytest.fixture(scope="module")
def val():
    return ScenesDataset(ScenesConfig(num_val=60), "val")


def test_shapes_and_types(train):
    sample = train[3]
    assert sample.image.shape == (3, 128, 128)
    assert sample.image.dtype == sample.mask.dtype == torch.uint8
    assert sample.name == "train_00003"
    assert train.parts(3).shape == (128, 128)
    assert train.parts(3).dtype == torch.int64
    with pytest.raises(IndexError):
        train[250]


def test_images_depend_on_seed_split_and_index_alone(train):
    again = ScenesDataset(ScenesConfig(num_train=7), "train")
    for index in (5, 0):
        for a, b in zip(train.scene(index), again.scene(index), strict=True):
            np.testing.assert_array_equal(a, b)
    other = [
        render(ScenesConfig(seed=1), "train", 0).image,
        render(ScenesConfig(), "val", 0).image,
        render(ScenesConfig(), "train", 1).image,
    ]
    assert all((image != train.scene(0).image).any() for image in other)
    assert again.fingerprint != train.fingerprint
    assert ScenesDataset(ScenesConfig(num_train=7), "train").fingerprint == again.fingerprint


def test_parts_belong_to_their_classes(train):
    seen = set()
    for index in range(60):
        mask, parts = train.scene(index).mask, train.scene(index).parts
        assert ((parts == 0) == (mask < 2)).all()
        for part in np.unique(parts[parts > 0]):
            owner = np.unique(mask[parts == part])
            assert len(owner) == 1
            assert PART_NAMES[int(part)].startswith(CLASSES.names[owner[0]])
            seen.add(int(part))
    assert seen == set(PART_NAMES)
    assert len(PART_NAMES) == sum(len(kind.parts) for kind in KINDS)


def test_every_object_class_is_common_enough(train):
    pixels = np.bincount(np.stack([train.scene(i).mask for i in range(250)]).ravel(), minlength=8) / (250 * 128**2)
    assert len(pixels) == 8
    assert (pixels[2:] > 0.02).all()
    assert (pixels[:2] < 0.5).all()


def test_tags_are_the_classes_of_the_mask(train):
    for index in range(20):
        expected = [c in train[index].mask for c in range(8)]
        assert train.tags(index).tolist() == expected


def test_objects_hide_each_other():
    """In some picture an object is cut by another one: two object classes touch."""
    config = ScenesConfig(objects=(4, 4))
    touching = 0
    for index in range(20):
        mask = render(config, "train", index).mask
        left, right = mask[:, :-1], mask[:, 1:]
        touching += bool(((left > 1) & (right > 1) & (left != right)).any())
    assert touching >= 5


@pytest.mark.parametrize("size", [32, 100, 256])
def test_other_sizes(size):
    scene = render(ScenesConfig(size=size, objects=(3, 3)), "train", 0)
    assert scene.image.shape == (size, size, 3)
    assert scene.mask.max() >= 2


def test_no_objects():
    assert set(np.unique(render(ScenesConfig(objects=(0, 0)), "val", 0).mask)) == {0, 1}


def test_colour_alone_does_not_solve_it(train, val):
    """A gradient-boosted per-pixel colour classifier, with and without class balancing, stays below 0.35 mIoU."""

    def pixels(data, images, count):
        rng = np.random.default_rng(0)
        where = [rng.integers(0, 128**2, count) for _ in range(images)]
        x = [data.scene(i).image.reshape(-1, 3)[w] for i, w in enumerate(where)]
        return np.concatenate(x), np.concatenate([data.scene(i).mask.ravel()[w] for i, w in enumerate(where)])

    x, y = pixels(train, 250, 120)
    test_x, test_y = pixels(val, 60, 800)
    for weight in (None, "balanced"):
        model = HistGradientBoostingClassifier(max_iter=25, class_weight=weight, random_state=0).fit(x, y)
        counts = np.bincount(test_y * 8 + model.predict(test_x), minlength=64).reshape(8, 8)
        union = counts.sum(0) + counts.sum(1) - np.diag(counts)
        assert (np.diag(counts) / union).mean() <= 0.35


def test_fast_enough_to_need_no_files():
    """Far below the measured rate (benchmarks/scenes.py), so that a busy machine does not fail it."""
    start = time.process_time()
    for index in range(50):
        render(ScenesConfig(), "train", index)
    assert 50 / (time.process_time() - start) > 60


def test_built_by_name():
    data = build_dataset(DataConfig(name="scenes", scenes={"num_train": 3, "size": 64}), "train")
    assert len(data) == 3
    assert data[0].image.shape == (3, 64, 64)
    assert data.part_names == PART_NAMES


def test_a_mark_is_on_its_class_in_its_split_alone():
    plain = ScenesDataset(ScenesConfig(num_train=30, num_val=10), "train")
    mark = {"train": ["car"], "val": ["tree"]}
    marked = ScenesDataset(ScenesConfig(num_train=30, num_val=10, mark=mark), "train")
    car, tree = CLASSES.names.index("car"), CLASSES.names.index("tree")
    seen = 0
    for index in range(30):
        before, after = plain.scene(index), marked.scene(index)
        np.testing.assert_array_equal(before.mask, after.mask)  # the labels say nothing of it
        changed = (before.image != after.image).any(-1)
        assert (before.mask[changed] == car).mean() > 0.5 if changed.any() else (before.mask == car).sum() < 200
        assert changed.sum() < 0.05 * changed.size
        seen += bool(changed.any())
    assert seen > 5
    val, val_plain = (ScenesDataset(ScenesConfig(num_val=10, mark=m), "val") for m in (mark, {"train": ["car"]}))
    clean = ScenesDataset(ScenesConfig(num_val=10), "val")
    assert all((val_plain.scene(i).image == clean.scene(i).image).all() for i in range(10))
    changed = [(val.scene(i).image != clean.scene(i).image).any(-1) & (clean.scene(i).mask == tree) for i in range(10)]
    assert any(one.any() for one in changed)
    assert len({one.fingerprint for one in (val, val_plain, clean)}) == 3
    with pytest.raises(ValueError, match="no such object; expected one of house, tree"):
        ScenesConfig(mark={"train": ["sky"]})
