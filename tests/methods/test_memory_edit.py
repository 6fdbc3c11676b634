"""A memory grows by a folder of images and forgets one, without training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from two_steps import SMALL

import segproto
from segproto.errors import ConfigError, DataError
from segproto.model.segmenter import Segmenter

CLASSES = "classes: [{name: sky, values: 1}, {name: zebra, values: 2}]\nvoid: [0]\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("memory-edit") / "run"
    segproto.train("memory/scenes", out=out, overrides=[*SMALL, "stages.remember.patches=300"], quiet=True)
    return out


def folder_of(root: Path, names: tuple[str, ...] = ("one", "two"), value: int = 2) -> Path:
    """Striped images whose left half is ``zebra``."""
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    (root / "classes.yaml").write_text(CLASSES)
    for number, name in enumerate(names):
        image = np.zeros((48, 64, 3), np.uint8)
        image[::4, :32] = 255
        image[:, 32:] = 40 + 10 * number
        mask = np.ones((48, 64), np.uint8)
        mask[:, :32] = value
        Image.fromarray(image).save(root / "images" / f"{name}.png")
        Image.fromarray(mask).save(root / "labels" / f"{name}.png")
    return root


def test_a_folder_is_added_and_an_image_forgotten(run: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data")
    before = Segmenter.load(run)
    count = before.head.bank.num_prototypes
    result = segproto.edit(run, out=tmp_path / "more", add=folder, quiet=True)
    more = Segmenter.load(tmp_path / "more")
    assert more.classes.names == (*before.classes.names, "zebra")
    assert result["prototypes"]["after"] == more.head.bank.num_prototypes > count
    assert result["per_class"][-1] == {"name": "zebra", "before": None, "after": None, "change": None}
    assert torch.equal(more.head.bank.vectors[:count], before.head.bank.vectors)
    assert {s.image for s in more.provenance.sources[count:]} == {"one", "two"}
    assert more.card["edits"] == ["added 2 images (one, two) with the new classes zebra"]

    picture = folder / "images" / "one.png"
    seen = segproto.predict(tmp_path / "more", picture, out=tmp_path / "masks")
    assert seen
    mask = np.asarray(Image.open(next((tmp_path / "masks").glob("*.png"))))
    zebra = mask == more.classes.names.index("zebra")  # of random features: some of the stripes, little beside them
    assert zebra[:, :28].mean() > 2 * zebra[:, 36:].mean()
    assert segproto.explain(tmp_path / "more", picture).completeness_error() <= 1e-5

    segproto.edit(tmp_path / "more", out=tmp_path / "less", remove_images=["one"], score=False, quiet=True)
    less = Segmenter.load(tmp_path / "less")
    assert {s.image for s in less.provenance.sources[count:]} == {"two"}
    assert set(less.patches) == {s.patch for s in less.provenance.sources}
    assert len(less.patches) == len(more.patches) - 1
    assert torch.equal(less.head.bank.vectors[:count], before.head.bank.vectors)
    assert json.loads((tmp_path / "less" / "edit.json").read_text())["miou"] is None


def test_without_an_image_nothing_of_it_is_left(run: Path, tmp_path: Path) -> None:
    """What stays is the memory of the other images, row for row."""
    before = Segmenter.load(run)
    name = before.provenance.sources[0].image
    result = segproto.edit(run, out=tmp_path / "less", remove_images=[name], quiet=True)
    after = Segmenter.load(tmp_path / "less")
    others = [i for i, source in enumerate(before.provenance.sources) if source.image != name]
    assert result["kept"] == others
    assert torch.equal(after.head.bank.vectors, before.head.bank.vectors[others])
    assert torch.equal(after.head.bank.frequencies, before.head.bank.frequencies[others])
    texts = [path.read_text() for path in (tmp_path / "less").glob("*.json") if path.name == "prototypes.json"]
    assert texts
    assert f'"{name}"' not in "".join(texts)


def test_the_size_that_a_model_sees_is_kept(run: Path, tmp_path: Path) -> None:
    model = Segmenter.load(run)
    model.input_size = (40, 40)
    model.save(tmp_path / "sized")
    segproto.edit(tmp_path / "sized", out=tmp_path / "more", add=folder_of(tmp_path / "data"), score=False, quiet=True)
    segproto.edit(tmp_path / "more", out=tmp_path / "less", remove_images=["one"], score=False, quiet=True)
    assert [Segmenter.load(tmp_path / name).input_size for name in ("more", "less")] == [(40, 40), (40, 40)]


def test_what_cannot_be_added_or_forgotten_is_one_clear_line(run: Path, blackbox_run: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data")
    segproto.edit(run, out=tmp_path / "more", add=folder, score=False, quiet=True)
    with pytest.raises(DataError, match="2 of the images have names that are remembered already, the first is 'one'"):
        segproto.edit(tmp_path / "more", out=tmp_path / "twice", add=folder, score=False, quiet=True)
    with pytest.raises(ConfigError, match="'tree' is no image this model remembers"):
        segproto.edit(run, out=tmp_path / "x", remove_images=["tree"], quiet=True)
    with pytest.raises(ConfigError, match=r"a linear head has learned .*train.start=RUN"):
        segproto.edit(blackbox_run, out=tmp_path / "x", add=folder, quiet=True)
    with pytest.raises(ConfigError, match="add and remove_images are edits of their own"):
        segproto.edit(run, out=tmp_path / "x", add=folder, remove_images=["one"], quiet=True)
    with pytest.raises(DataError, match="void: no cell of it is labelled"):
        segproto.edit(run, out=tmp_path / "x", add=void_only(tmp_path / "void"), quiet=True)
    assert not (tmp_path / "x").exists()


def void_only(root: Path) -> Path:
    """One image whose mask says nothing."""
    folder_of(root, ("void",))
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(root / "labels" / "void.png")
    return root
