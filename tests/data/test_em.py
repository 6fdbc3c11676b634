"""The EM set: both layouts, the published split."""

import os

import numpy as np
import pytest
import tifffile
from PIL import Image

from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.data.em import val_slices
from segproto.errors import DataError

PUBLISHED = {0, 8, 9, 12, 15, 17, 23, 24, 27, 28}


@pytest.fixture
def volume():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (30, 8, 9), dtype=np.uint8), rng.integers(0, 2, (30, 8, 9), dtype=np.uint8)


def test_published_split():
    assert set(val_slices(30, 42)) == PUBLISHED
    assert set(val_slices(30, 1)) != PUBLISHED


def test_both_layouts_give_the_same_samples(tmp_path, volume):
    images, labels = volume
    stacks, folders = tmp_path / "stacks", tmp_path / "folders"
    stacks.mkdir()
    tifffile.imwrite(stacks / "train-volume.tif", images)
    tifffile.imwrite(stacks / "train-labels.tif", labels * 255)
    for name, arrays in (("images", images), ("labels", labels)):
        (folders / name).mkdir(parents=True)
        for i, array in enumerate(arrays):
            Image.fromarray(array).save(folders / name / f"{i:02d}.png")
    for split in ("train", "val"):
        a, b = (build_dataset(DataConfig(name="em", root=root), split) for root in (stacks, folders))
        assert a.names == b.names
        assert a.classes == b.classes
        assert a.classes.names == ("membrane", "cell")
        for i, name in enumerate(a.names):
            assert (int(name) in PUBLISHED) == (split == "val")
            for sample in (a[i], b[i]):
                np.testing.assert_array_equal(sample.mask, labels[int(name)])
                np.testing.assert_array_equal(sample.image[2], images[int(name)])
        assert a.fingerprint != build_dataset(DataConfig(name="em", root=stacks, split_seed=1), split).fingerprint


def test_stack_mistakes_are_named(tmp_path, volume):
    images, _ = volume
    config = DataConfig(name="em", root=tmp_path)
    with pytest.raises(DataError, match=r"neither train-volume\.tif"):
        build_dataset(config, "train")
    tifffile.imwrite(tmp_path / "train-volume.tif", images)
    with pytest.raises(DataError, match=r"train-labels\.tif: no such file"):
        build_dataset(config, "train")
    tifffile.imwrite(tmp_path / "train-labels.tif", images[:10])
    with pytest.raises(DataError, match="differs from the volume's"):
        build_dataset(config, "train")
    tifffile.imwrite(tmp_path / "train-labels.tif", np.full_like(images, 7))
    with pytest.raises(DataError, match="slice 01: value 7"):
        build_dataset(config, "train")[0]
    (tmp_path / "train-volume.tif").write_bytes(b"II*\0 broken")
    with pytest.raises(DataError, match=r"train-volume\.tif: "):
        build_dataset(config, "train")


@pytest.mark.data
@pytest.mark.skipif("SEGPROTO_DATA" not in os.environ, reason="SEGPROTO_DATA is not set")
def test_real_em():
    config = DataConfig(name="em", root="$SEGPROTO_DATA/isbi2012_em")
    train, val = build_dataset(config, "train"), build_dataset(config, "val")
    assert {int(name) for name in val.names} == PUBLISHED
    assert len(train) == 20
    share = float(np.mean([(train[i].mask == 0).float().mean() for i in range(20)]))
    assert abs(share - 0.22) < 0.01
