"""Part tables and part maps: every kind read, every mistake told in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import tiny_segmenters
import yaml
from PIL import Image

from segproto.data.build import build_dataset
from segproto.data.classes import EXAMPLES, read_classes
from segproto.data.config import DataConfig
from segproto.data.parts import TABLES, read_parts
from segproto.errors import DataError
from segproto.evaluation.interpretability.config import InterpretabilityConfig
from segproto.evaluation.interpretability.run import interpret

DATA = Path(os.environ.get("SEGPROTO_DATA", "missing"))
TABLE = {"classes": {"car": {"wheel": 1, "door": "10-12"}, "dog": {"head": 1, "tail": [2, 3]}}, "void": 255}


def write(path: Path, array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images 4x3 (width x height): class 0 car, 1 dog, 2 sky."""
    mask = [[0, 0, 1, 1], [0, 0, 1, 2], [0, 255, 2, 2]]
    parts = [[1, 11, 1, 3], [12, 0, 255, 77], [0, 9, 77, 77]]  # 77 and 9 where they do not count: sky, void
    for name in ("a", "b"):
        write(tmp_path / "images" / f"{name}.png", np.zeros((3, 4, 3)))
        write(tmp_path / "labels" / f"{name}.png", mask)
    write(tmp_path / "parts" / "a.png", parts)
    (tmp_path / "classes.yaml").write_text("classes: [car, dog, sky]\nsplit: {val_pattern: '.'}\n")
    (tmp_path / "parts.yaml").write_text(yaml.safe_dump(TABLE, sort_keys=False))
    return tmp_path


def dataset(root: Path, **more):
    return build_dataset(DataConfig(root=root, parts=root / "parts.yaml", **more), "val")


def test_values_become_ids_of_their_class(root) -> None:
    opened = dataset(root)
    assert opened.part_names == {1: "car wheel", 2: "car door", 3: "dog head", 4: "dog tail"}
    assert opened.parts(0).tolist() == [[1, 2, 3, 4], [2, 0, 0, 0], [0, 0, 0, 0]]
    assert opened.parts(1) is None  # no part map for this image
    plain = build_dataset(DataConfig(root=root), "val")
    assert plain.parts(0) is None
    assert plain.part_names == {}
    assert plain.fingerprint == opened.fingerprint  # cached features stay valid


def test_part_maps_elsewhere(root) -> None:
    (root / "parts").rename(root / "pieces")
    (root / "pieces" / "a.png").rename(root / "pieces" / "a_p.png")
    assert dataset(root, part_maps="pieces", part_suffix="_p").parts(0) is not None
    with pytest.raises(DataError, match=r"parts: holds no part map; set data\.part_maps"):
        dataset(root).parts(0)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (np.zeros((3, 5)), r"a\.png: the part map is 5x3 pixels \(width x height\), its mask 4x3"),
        (np.full((3, 4), 7), r"a\.png: part value 7 at a pixel of class 'car' .*\(car: wheel, door\); add it"),
        (np.full((3, 4), 254), r"a\.png: part value 254 at a pixel of class 'car'"),
    ],
)
def test_maps_that_do_not_fit_are_named(root, parts, message) -> None:
    write(root / "parts" / "a.png", parts)
    with pytest.raises(DataError, match=message):
        dataset(root).parts(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": {"cat": {"head": 1}}}, r"'cat' is no class of the data; did you mean 'car'"),
        ({"classes": {"car": {"head": 1, "tail": "0-3"}}}, r"value 1 belongs to both 'head' and 'tail'"),
        ({"classes": {"car": {"head": "x"}}}, r"'x' is neither a number 0\.\.65535 nor a range like 6-15"),
        ({"clases": {}}, r"parts\.yaml: "),
        ({"classes": []}, r"expected class names, each with its parts"),
    ],
)
def test_tables_with_mistakes(root, change, message) -> None:
    (root / "parts.yaml").write_text(yaml.safe_dump(change))
    with pytest.raises(DataError, match=message):
        dataset(root)


def test_unknown_table_and_wrong_data_set(root) -> None:
    with pytest.raises(DataError, match=r"none of the shipped part tables .*cityscapes_parts"):
        build_dataset(DataConfig(root=root, parts="cityscapes_part"), "val")
    with pytest.raises(ValueError, match="parts is for name: folder"):
        DataConfig(name="scenes", parts="cityscapes_parts")


def test_panoptic_ids(root) -> None:
    (root / "parts.yaml").write_text(yaml.safe_dump(TABLE | {"encoding": "panoptic"}, sort_keys=False))
    (root / "parts" / "a.png").unlink()
    ids = np.array([[2600001, 2601211, 2400001, 24], [26001, 2600077, 2400099, 7], [26, 0, 7, 7]], np.int32)
    tifffile.imwrite(root / "parts" / "a.tif", ids)
    assert dataset(root).parts(0).tolist() == [[1, 2, 3, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("table", "classes", "parts"),
    [
        ("cityscapes_parts", "cityscapes", 23),
        ("pascal_parts", "voc", 194),
        ("fasseg_v2",) * 2 + (5,),
        ("ccp500_half",) * 2 + (58,),
    ],
)
def test_shipped_tables_fit_their_classes(table, classes, parts) -> None:
    part_table = read_parts(Path(table), read_classes(EXAMPLES / f"{classes}.yaml").labels.table.names)
    assert len(part_table.names) == parts
    assert (TABLES / f"{table}.yaml").is_file()


def test_pascal_folds_countable_parts() -> None:
    names = read_classes(EXAMPLES / "voc.yaml").labels.table.names
    table = read_parts(Path("pascal_parts"), names)
    plane = table.lookup[list(names).index("aeroplane")]
    assert plane[6] == plane[15] != plane[16]
    assert table.names[int(plane[16])] == "aeroplane wheel"
    counts = {name: sum(text.startswith(f"{name} ") for text in table.names.values()) for name in names}
    assert (counts["person"], counts["horse"], counts["tvmonitor"], counts["boat"]) == (24, 21, 2, 0)


@pytest.fixture
def frame(tmp_path: Path):
    """The Cityscapes fixture as a data set; its image has half the size of its labels, so it is enlarged here."""
    folder, stem = DATA / "cityscapes_pp1", "aachen_000012_000019"
    (tmp_path / "images").mkdir()
    with Image.open(folder / "images" / f"{stem}_leftImg8bit.jpg") as picture:
        picture.resize((2048, 1024)).save(tmp_path / "images" / f"{stem}.png")
    for name in ("labels", "parts"):
        (tmp_path / name).symlink_to(folder / name)
    config = DataConfig(
        root=tmp_path,
        classes="cityscapes",
        label_suffix="_semantic",
        parts="cityscapes_parts",
        part_suffix="_parts",
        split={"val_pattern": "."},
    )
    return build_dataset(config, "val")


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs $SEGPROTO_DATA")
def test_cityscapes_frame_decodes(frame) -> None:
    sample, parts = frame[0], frame.parts(0)
    shown = {frame.part_names[i] for i in parts.unique().tolist() if i}
    assert {"person head", "car wheel", "car window"} <= shown
    wheel = next(i for i, name in frame.part_names.items() if name == "car wheel")
    assert (sample.mask[parts == wheel] == frame.classes.names.index("car")).all()


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs $SEGPROTO_DATA")
def test_cityscapes_frame_yields_finite_figures(frame) -> None:
    model = tiny_segmenters.segmenter("grouped", 19, stride=32)
    model.classes = frame.classes
    names = ("consistency", "stability", "purity", "group_overlap", "prototype_overlap", "components", "pointing")
    config = InterpretabilityConfig(metrics=(*names, "coverage", "health", "nearest", "completeness"))
    figures = interpret(model, frame, config)["metrics"]
    json.dumps(figures, allow_nan=False)
    assert {name for name, metric in figures.items() if metric["value"] is None} == set()
    assert figures["consistency"]["per_class"][frame.classes.names.index("car")] is not None
    assert figures["consistency"]["per_class"][frame.classes.names.index("road")] is None
