"""A memory grows by a folder of images and forgets one, without training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from two_steps import SMALL

import segproto
from segproto.errors import ConfigError, DataError
from segproto.evaluation.rescore import of_shown
from segproto.model.memory_head import MemoryBank, MemoryHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.retrieval import Neighbours, nearest_patches

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
    with pytest.raises(DataError, match="nowhere: no such folder of images and masks to add"):
        segproto.edit(run, out=tmp_path / "x", add=tmp_path / "nowhere", quiet=True)
    shutil.rmtree(folder / "labels")
    with pytest.raises(DataError, match=r"data is to be added, images and masks: .*labels"):
        segproto.edit(run, out=tmp_path / "x", add=folder, quiet=True)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kept", [None, range(5, 100), range(95), [*range(40), *range(45, 100)], range(8), range(30)])
@pytest.mark.parametrize("added", [0, 3, 200])
def test_one_search_answers_for_the_memory_before_and_after(kept: Sequence[int] | None, added: int) -> None:
    """Against two searches; a memory in another order, or with another mean, is searched twice."""
    torch.manual_seed(0)
    before = memory_head(100)
    old = before.bank if kept is None else before.bank.select(torch.tensor(kept))
    more = memory_head(added).bank
    vectors, frequencies = torch.cat([old.vectors, more.vectors]), torch.cat([old.frequencies, more.frequencies])
    bank = MemoryBank(vectors, frequencies, old.mean, old.removed, old.blocks)
    after, features = before.with_bank(bank), torch.randn(2, 8, 5, 7)
    expected = before(features), after(features)
    for found, wanted in zip(after.beside(before, kept)(features), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    for apart in (bank.select(torch.arange(len(vectors)).roll(1)), replaced_mean(bank)):
        other = before.with_bank(apart)
        torch.testing.assert_close(other.beside(before, kept)(features)[1], other(features), rtol=0, atol=0)


def memory_head(patches: int, classes: int = 4) -> MemoryHead:
    vectors = torch.nn.functional.normalize(torch.randn(patches, 8), dim=1).half()
    frequencies = torch.rand(patches, classes).softmax(1).half()
    return MemoryHead(MemoryBank(vectors, frequencies, torch.zeros(8), torch.zeros(0, 8), 0), neighbours=12)


def replaced_mean(bank: MemoryBank) -> MemoryBank:
    return MemoryBank(bank.vectors, bank.frequencies, torch.randn(8), bank.removed, bank.blocks)


def test_a_search_is_not_repeated_for_the_edited_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    before = memory_head(100)
    searched: list[int] = []

    def counted(queries: Tensor, keys: Tensor, k: int) -> Neighbours:
        searched.append(len(keys))
        return nearest_patches(queries, keys, k)

    monkeypatch.setattr("segproto.model.memory_head.nearest_patches", counted)
    more = torch.cat([before.bank.vectors, memory_head(3).bank.vectors])
    frequencies = torch.full((103, 4), 0.25, dtype=torch.float16)
    after = before.with_bank(MemoryBank(more, frequencies, before.bank.mean, before.bank.removed, 0))
    after.beside(before, None)(torch.randn(1, 8, 5, 7))
    assert searched == [100, 3]


def test_a_class_that_no_mask_can_show_is_in_no_mean() -> None:
    rows = [{"name": "sky", "iou": 0.5}, {"name": "sea", "iou": 0.7}, {"name": "zebra", "iou": 0.0}]
    scores = of_shown({"miou": 0.4, "accuracy": 0.6, "per_class": rows}, ("sky", "sea"))
    assert scores["miou"] == pytest.approx(0.6)
    assert [row["iou"] for row in scores["per_class"]] == [0.5, 0.7, None]


def void_only(root: Path) -> Path:
    """One image whose mask says nothing."""
    folder_of(root, ("void",))
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(root / "labels" / "void.png")
    return root
