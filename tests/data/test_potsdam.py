"""Potsdam's original TIFF files: tiles, their order, the draw, and the colours of the labels."""

from __future__ import annotations

import itertools
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile

from segproto.data import inflate
from segproto.data.archives import Member, Tree
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.data.crops import LABELLED, Crop, potsdam_tiles
from segproto.errors import DataError

COLOURS = {
    (255, 255, 255): 0, (0, 0, 255): 1, (0, 255, 255): 2, (0, 255, 0): 3, (255, 255, 0): 4, (255, 0, 0): 5
}  # fmt: skip
STORED = [
    {"rowsperstrip": 7, "compression": "zlib"},
    {"tile": (128, 128), "compression": "zlib"},
    {"rowsperstrip": 1},
    {},
]


def survey(
    root: Path, area: str, seed: int, tiles: tuple[int, int] = (2, 3), **stored
) -> tuple[np.ndarray, np.ndarray]:
    """One area of the official names; returns its picture and label numbers 0..5."""
    rng = np.random.default_rng(seed)
    size = (tiles[0] * 400, tiles[1] * 400)
    picture = rng.integers(0, 256, (*size, 4), dtype=np.uint8)
    numbers = rng.integers(0, 6, size)
    colours = np.array(list(COLOURS), np.uint8)[numbers]
    for folder, ending, values, kind in (
        ("4_Ortho_RGBIR", "RGBIR", picture, "rgb"),
        ("5_Labels_for_participants", "label", colours, "rgb"),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(root / folder / f"top_potsdam_{area}_{ending}.tif", values, photometric=kind, **stored)
    return picture, numbers


def halved(picture: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole file halved before it is cut, as the published tiles were made; pixel by pixel means."""
    height, width = picture.shape[:2]
    small = np.floor(picture.reshape(height // 2, 2, width // 2, 2, 4).mean((1, 3)) + 0.5)
    return small[..., :3], numbers[::2, ::2]


def pack(root: Path, kind: int) -> None:
    """Each folder as the zip archive it comes in."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        with zipfile.ZipFile(root / f"{folder.name}.zip", "w", kind) as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, f"{folder.name}/{file.name}")
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("stored", "packed"),
    [*((stored, None) for stored in STORED), *zip(STORED, (8, 0, 8, 8), strict=True), (STORED[3], 0)],
    ids=[f"{kind} {place}" for place in ("in files", "in zip") for kind in ("strips", "tiles", "rows", "one piece")]
    + ["one piece stored"],
)
def test_tiles_are_those_of_the_halved_picture(
    tmp_path: Path, stored: dict, packed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inflate, "STEP", 100_000)
    whole = {area: halved(*survey(tmp_path, area, i, **stored)) for i, area in enumerate(("2_10", "6_7"))}
    if packed is not None:
        pack(tmp_path, packed)
    merged = np.array([0, 1, 2, 2, 0, 1])  # roads and cars, buildings and clutter, vegetation and trees
    seen = []
    for split in ("train", "val"):
        data = build_dataset(DataConfig(name="potsdam", root=tmp_path), split)
        for index, name in enumerate(data.names):
            area, row, column = name.rsplit("_", 2)
            cut = np.s_[int(row) * 200 :, int(column) * 200 :]
            picture, numbers = (values[cut][:200, :200] for values in whole[area])
            sample = data[index]
            np.testing.assert_array_equal(sample.image.permute(1, 2, 0).numpy(), picture)
            np.testing.assert_array_equal(sample.mask.numpy(), merged[numbers])
        seen += data.names
        assert len(data.fingerprint) == 16
    expected = [f"{a}_{r:02d}_{c:02d}" for a, r, c in itertools.product(("2_10", "6_7"), range(2), range(3))]
    assert sorted(seen) == expected


def test_the_counts_of_the_published_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """38 pictures and labels of all of them: only the 24 areas of the participants are used."""
    others = [
        "2_13",
        "2_14",
        "3_13",
        "3_14",
        "4_13",
        "4_14",
        "4_15",
        "5_13",
        "5_14",
        "5_15",
        "6_13",
        "6_14",
        "6_15",
        "7_13",
    ]
    assert len(LABELLED) == 24
    for area in (*LABELLED, *others):
        for ending in ("RGB", "label"):
            (tmp_path / f"top_potsdam_{area}_{ending}.tif").touch()
    monkeypatch.setattr("segproto.data.crops.grid", lambda file: (15, 15))
    train, val = (potsdam_tiles(Tree(tmp_path), split) for split in ("train", "val"))
    assert (len(train[0]), len(val[0])) == (4545, 855)
    assert not set(train[0]) & set(val[0])
    assert train[0].keys() == train[1].keys()
    assert {name.rsplit("_", 2)[0] for name in [*train[0], *val[0]]} == LABELLED
    assert list(potsdam_tiles(Tree(tmp_path), "val")[0]) == list(val[0])
    first = [name for name in [*train[0], *val[0]] if name.startswith("2_10_")]
    assert len(first) == 225


def test_odd_files(tmp_path: Path) -> None:
    survey(tmp_path, "2_10", 0, (1, 2))
    label = tmp_path / "5_Labels_for_participants/top_potsdam_2_10_label.tif"
    values = np.zeros((400, 800, 3), np.uint8)
    values[0, 0] = (252, 255, 1)  # such values occur in the released files: a car
    tifffile.imwrite(label, values, photometric="rgb")
    assert Crop(label, 0, 0).labels()[0, :2].tolist() == [4, 255]
    tifffile.imwrite(label, values[:300], photometric="rgb")
    with pytest.raises(DataError, match=r"label\.tif \(tile 0, 0\): is uint8 \(300, 400, 3\), expected"):
        Crop(label, 0, 0).labels()
    label.write_bytes(b"II*\x00 no tiff")
    with pytest.raises(DataError, match=r"label\.tif: cannot be read as a TIFF"):
        Crop(label, 0, 0).labels()
    label.unlink()
    with pytest.raises(DataError, match="no such file"):
        Crop(label, 0, 0).image()
    with pytest.raises(DataError, match=r"no train images of potsdam there"):
        build_dataset(DataConfig(name="potsdam", root=tmp_path), "train")
    (tmp_path / "4_Ortho_RGBIR/top_potsdam_2_10_RGBIR.tif").write_bytes(b"torn")
    label.touch()
    with pytest.raises(DataError, match=r"RGBIR\.tif: cannot be read as a TIFF"):
        build_dataset(DataConfig(name="potsdam", root=tmp_path), "train")


def test_reading_anywhere_in_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflate, "STEP", 50_000)
    rng = np.random.default_rng(0)
    content = np.repeat(rng.integers(0, 256, 40_000, dtype=np.uint8), rng.integers(1, 30, 40_000)).tobytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b", b"before")
        archive.writestr("a", content)
        archive.writestr("c", b"")
    stream = inflate.MemberStream(Member(tmp_path / "a.zip", "a"))
    places = [*random.Random(0).sample(range(len(content)), 60), 0, len(content) - 5, len(content), len(content) + 9]
    for place in places:
        stream.seek(place)
        assert stream.read(1000) == content[place : place + 1000]
        assert stream.read(70_000) == content[place + 1000 : place + 71_000]
    assert stream.seek(-7, 2) == len(content) - 7
    assert stream.seek(3, 1) == stream.tell() == len(content) - 4
    assert len(stream.states) > 5
    assert inflate.MemberStream(Member(tmp_path / "a.zip", "c")).read() == b""


@pytest.mark.parametrize(("place", "value", "line"), [(6, 1, "is encrypted"), (8, 12, "in an unusual way")])
def test_archives_that_cannot_be_read_in_place(tmp_path: Path, place: int, value: int, line: str) -> None:
    survey(tmp_path, "2_10", 0, (1, 1))
    pack(tmp_path, zipfile.ZIP_DEFLATED)
    path = tmp_path / "4_Ortho_RGBIR.zip"
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\1\2") + place + 2] = value
    path.write_bytes(content)
    with pytest.raises(DataError, match=line):
        build_dataset(DataConfig(name="potsdam", root=tmp_path), "train")


def test_a_damaged_archive(tmp_path: Path) -> None:
    survey(tmp_path, "2_10", 0, (1, 1), rowsperstrip=1)
    pack(tmp_path, zipfile.ZIP_DEFLATED)
    path = tmp_path / "4_Ortho_RGBIR.zip"
    content = bytearray(path.read_bytes())
    name = "4_Ortho_RGBIR/top_potsdam_2_10_RGBIR.tif"
    content[30 + len(name) : 40 + len(name)] = b"\xff" * 10
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"RGBIR\.tif: cannot be read as a TIFF \(damaged at byte 0"):
        Crop(Member(path, name), 0, 0).image()
