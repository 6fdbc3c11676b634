"""ADE20K's full release: official names, object indices in two colour channels, and more classes than a byte holds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_segmenters import segmenter

from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.data.images import read_objects
from segproto.data.merged import MergedClasses
from segproto.data.picture import MaskWriter
from segproto.data.published_sets import ade20k_full
from segproto.data.tags import tags_of_masks
from segproto.data.verify import verify
from segproto.errors import DataError
from segproto.evaluation.masks import score_masks
from segproto.evaluation.validate import validate
from segproto.metrics.cells import class_pixels
from segproto.model.outputs import Outputs, predict_to_files
from segproto.model.predict import predict
from segproto.report.pictures import paint

WALL, DOME, PIER, ADDING_MACHINE = 2978, 772, 1857, 3148  # the first, the last below 255, the first above, the last


def encode(objects: np.ndarray, instances: int = 0) -> np.ndarray:
    """The colours of a ``_seg.png``: blue numbers the instance."""
    return np.stack([objects // 256 * 10, objects % 256, np.full_like(objects, instances)], -1).astype(np.uint8)


def release(root: Path, objects: np.ndarray, layout: str = "images/ADE") -> None:
    for split, stem in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        folder = root / layout / split / "urban" / "street"
        folder.mkdir(parents=True)
        photo = np.random.default_rng(0).integers(0, 256, (*objects.shape, 3)).astype(np.uint8)
        Image.fromarray(photo).save(folder / f"{stem}.jpg")
        Image.fromarray(encode(objects, 37)).save(folder / f"{stem}_seg.png")
        Image.fromarray(encode(objects)).save(folder / f"{stem}_parts_1.png")


@pytest.mark.parametrize("layout", ["images/ADE", "ADE20K_2021_17_01/images/ADE", "images"])
def test_masks_of_the_full_vocabulary(tmp_path: Path, layout: str) -> None:
    release(tmp_path, np.array([[0, WALL, DOME], [PIER, ADDING_MACHINE, 3]]), layout)  # 3: too rare to be a class
    data = build_dataset(DataConfig(name="ade20k_full", root=tmp_path), "val")
    assert data.names == ("urban/street/ADE_val_00000001",)
    assert data[0].mask.tolist() == [[255, 0, 254], [256, 847, 255]]
    assert [data.classes.names[c] for c in (0, 254, 256, 847)] == ["wall", "dome", "pier", "adding machine"]
    report = verify(DataConfig(name="ade20k_full", root=tmp_path))
    assert report.splits["val"].void == 2
    assert report.splits["val"].pixels[[0, 254, 255, 256, 847]].tolist() == [1, 1, 0, 1, 1]
    assert "1 of the classes in no published label: (void)" in report.notes
    assert "val: 1 images, the published set has 2000" in report.problems
    assert tags_of_masks(data).nonzero()[:, 1].tolist() == [0, 254, 256, 847]


def test_the_table_has_847_classes_by_frequency() -> None:
    labels = ade20k_full()
    used = {number: c for number, c in labels.lookup.items() if c != 255}
    assert len(used) == 847
    assert sorted(used.values()) == [c for c in range(848) if c != 255]
    assert len(set(labels.table.names)) == 848
    assert labels.table.names[:6] == ("wall", "building", "sky", "tree", "road", "floor")
    assert (labels.table.names[501], used[430]) == ("cat", 501)


def test_what_is_no_segmentation_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a picture of mode L; expected the colours of a \*_seg\.png"):
        read_objects(tmp_path / "a.png")


def test_masks_beyond_a_byte_are_written_read_and_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values = rng.choice([0, 7, 254, 255, 256, 300, 847], (9, 11))
    mask = torch.from_numpy(values.astype(np.int16))
    for folder in ("a", "b"):
        with MaskWriter(tmp_path / folder / "x.png", 9, 11, wide=True) as writer:
            writer.write(mask[:4])
            writer.write(mask[4:])
    assert np.asarray(Image.open(tmp_path / "a/x.png")).tolist() == values.tolist()
    table = ade20k_full().table
    figures = score_masks(tmp_path / "a", tmp_path / "b", classes=table)
    assert figures["miou"] == figures["accuracy"] == 1
    assert figures["void"] == (values == 255).mean()
    assert figures["undecided"] == 0
    cells = torch.arange(99).view(9, 11) % 4
    counts = class_pixels(mask, cells, 848, 4)
    for c in (0, 256, 847):
        assert counts[c].tolist() == [int(((values == c) & (cells.numpy() == k)).sum()) for k in range(4)]
    assert counts[255].tolist() == [0, 0, 0, 0]
    painted = paint(mask, table.colours)
    assert ((painted[3] == 0) == (mask == 255)).all()
    assert painted[:3, mask == 847][:, 0].tolist() == list(table.colours[847])


def test_a_model_of_848_outputs(tmp_path: Path) -> None:
    """Trained nowhere, but as it would be: predicted, written and scored with classes beyond 255."""
    model = segmenter("linear", classes=848, multiple=8)
    model.classes = ade20k_full().table
    rng = np.random.default_rng(2)
    numbers = [n for n, c in ade20k_full().lookup.items() if c != 255]
    release(tmp_path, rng.choice(numbers, (24, 32)))
    data = build_dataset(DataConfig(name="ade20k_full", root=tmp_path), "val")
    with torch.no_grad():
        logits = model(model.encoder.normalisation(data[0].image)[None])[0]
    mask = predict(model, data[0].image)
    assert mask.dtype == torch.int16
    assert torch.equal(mask.long(), logits.argmax(0))
    assert int(mask.max()) > 255
    predict_to_files(model, data.path(0), Outputs(tmp_path / "p.png"))  # type: ignore[arg-type]
    assert np.asarray(Image.open(tmp_path / "p.png")).tolist() == mask.tolist()
    figures = validate(model, data)
    assert figures["accuracy"] == pytest.approx(float((mask == data[0].mask).float().mean()))
    merged = MergedClasses(data, {"inside": ["wall", "dome"]})
    names = merged.classes.names
    assert [names[i] for i in merged[0].mask.unique()] == sorted(  # type: ignore[no-untyped-call]
        {"inside" if n in ("wall", "dome") else n for n in (data.classes.names[i] for i in data[0].mask.unique())},
        key=names.index,
    )


@pytest.mark.data
def test_the_real_fixture_names_its_own_objects() -> None:
    root = Path(os.environ.get("SEGPROTO_DATA", "/nowhere")) / "ade20k_parts3"
    if not root.is_dir():
        pytest.skip("no $SEGPROTO_DATA")
    labels = ade20k_full()
    seen = 0
    for file in sorted(root.glob("*_seg.png")):
        objects = json.loads(file.with_name(file.name.replace("_seg.png", ".json")).read_text())["annotation"]["object"]
        names = {int(entry["name_ndx"]): entry["name"] for entry in objects}
        for number in np.unique(read_objects(file)):
            c = labels.lookup[int(number)]
            if number and c != 255:
                assert names[int(number)].startswith(labels.table.names[c]), number
                seen += 1
        assert (labels.read(file) != 255).float().mean() > 0.8
    assert seen > 30
