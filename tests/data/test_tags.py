"""Tags of images, and classes made one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from segproto.data.base import ClassTable, Sample
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig, ScenesConfig
from segproto.data.merged import MergedClasses
from segproto.data.subset import Subset
from segproto.data.tags import read_tags, tags_of_masks
from segproto.errors import DataError

CLASSES = ClassTable(("background", "cat", "dog"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_tags_by_commas_semicolons_and_bars(tmp_path: Path) -> None:
    file = write(
        tmp_path / "t.csv", "image,tags\na.jpg,cat\nb,dog;cat\nsub/c.png,dog|cat\nd,cat,dog\ne,background\nother,\n"
    )
    tags = read_tags(file, CLASSES, ["sub/c", "a", "b", "d", "e"])
    assert tags.tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,cta\n", r"line 1: the tag 'cta' is no class; did you mean 'cat'\?"),
        ("a,CAT\n", r"the tag 'CAT' is no class; did you mean 'cat'\?"),
        ("a,zzz\n", "classes: background, cat, dog"),
        ("a,\n", "line 1: 'a' has no tag; give it one"),
        ("b,cat\n", "1 of 1 images have no line, first 'a'"),
        ("a,cat\na.jpg,dog\n", "line 2: 'a.jpg' has tags twice"),
    ],
)
def test_bad_tags_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_tags(write(tmp_path / "t.csv", text), CLASSES, ["a"])


def test_quoted_cells(tmp_path: Path) -> None:
    """``a,"cat,dog"`` is two tags; a class may have a comma in its name."""
    classes = ClassTable(("background", "cat", "dog", "door, double"), ((0, 0, 0),) * 4)
    file = write(tmp_path / "t.csv", 'a,"cat,dog"\nb,"door, double",cat\n')
    assert read_tags(file, classes, ["a", "b"]).tolist() == [[1, 1, 1, 0], [1, 1, 0, 1]]


def test_dots_in_names(tmp_path: Path) -> None:
    """Only the suffix of an image file may be left out: ``a.1`` is not ``a``."""
    file = write(tmp_path / "t.csv", "a.1,cat\na.2.JPG,dog\nb.c,dog\n")
    assert read_tags(file, CLASSES, ["a.1", "a.2", "b.c"]).tolist() == [[1, 1, 0], [1, 0, 1], [1, 0, 1]]
    with pytest.raises(DataError, match="2 of 2 images have no line, first 'a'; add them, as in: a,dog"):
        read_tags(file, CLASSES, ["a", "b"])


def test_a_void_mask_tells_no_tag() -> None:
    dataset = build_dataset(scenes(), "train")
    sample = dataset[3]

    class Void(type(dataset)):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Sample:
            return sample._replace(mask=torch.full_like(sample.mask, 255)) if index == 3 else super().__getitem__(index)

    dataset.__class__ = Void
    with pytest.raises(DataError, match="train_00003: its mask is void everywhere, so the image has no tag"):
        tags_of_masks(dataset)


def test_a_missing_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_tags(tmp_path / "none.csv", CLASSES, ["a"])
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        read_tags(tmp_path / "x.csv", CLASSES, ["a"])


def scenes(**merge: list[str]) -> DataConfig:
    return DataConfig(name="scenes", scenes=ScenesConfig(num_train=5, num_val=1, size=48), merge=merge)


def test_merged_classes() -> None:
    plain, merged = build_dataset(scenes(), "train"), build_dataset(scenes(outside=["sky", "ground"]), "train")
    assert merged.classes.names == ("outside", *plain.classes.names[2:])
    assert merged.classes.colours[0] == plain.classes.colours[0]
    for i in range(5):
        assert torch.equal(merged[i].mask.long(), (plain[i].mask.long() - 1).clamp_min(0))
    assert merged.fingerprint != plain.fingerprint
    assert tags_of_masks(merged).tolist() == [
        [1.0, *((merged[i].mask == c).any().float().item() for c in range(1, 7))] for i in range(5)
    ]


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        ({"a": ["skyy"]}, "did you mean 'sky'"),
        ({"a": ["sky"], "b": ["sky"]}, "merged twice"),
        ({"car": ["sky"]}, "two classes would be called 'car'"),
    ],
)
def test_bad_merges_are_named(merge: dict[str, list[str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_dataset(scenes(**merge), "train")


def test_tags_of_classes_that_were_merged_or_renamed(tmp_path: Path) -> None:
    """In a CSV, label vectors and annotations: old names, old places, and the new names."""
    whole = build_dataset(
        DataConfig(name="scenes", scenes=ScenesConfig(size=32, num_train=2), merge={}, rename={"house": "home"}),
        "train",
    )
    old = whole.former_classes
    data = MergedClasses(whole, {"background": ["sky", "ground"], "building": ["home", "tree"]})
    former = data.former_classes
    assert list(former) == list(old)  # the names of the masks, in their order
    assert former["sky"] == former["ground"] == 0
    assert former["house"] == former["tree"] == 1
    one, two = whole.names
    rest = next(name for name in data.classes.names if name not in ("background", "building"))
    for tags in (f"{one},house;sky\n{two},{rest}|building\n", f"{one},building\n{two},{rest},tree\n"):
        found = read_tags(write(tmp_path / "t.csv", tags), data.classes, [one, two], former)
        assert [row.nonzero().flatten().tolist() for row in found] == [[0, 1], [0, 1, former[rest]]]
    with pytest.raises(DataError, match="'hous' is no class; did you mean 'house'"):
        read_tags(write(tmp_path / "t.csv", f"{one},hous\n"), data.classes, [one], former)
    vector = np.zeros(len(former) - 1, np.float32)
    vector[[list(former).index("house") - 1, list(former).index("ground") - 1]] = 1
    np.save(tmp_path / "l.npy", {one: vector}, allow_pickle=True)  # type: ignore[arg-type]
    found = read_tags(tmp_path / "l.npy", data.classes, [one], former)
    assert found.nonzero()[:, 1].tolist() == [0, 1]
    alone = Subset(data, [1])
    assert alone.former_classes == former
