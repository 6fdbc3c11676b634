"""Data sets as they are distributed: official names and folders, unpacked, zipped or still to be unpacked."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from typer.testing import CliRunner

from segproto.cli.app import app
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.data.labels import LabelMap
from segproto.data.prepare import completeness, prepare, unpack
from segproto.data.published import Archive, Published
from segproto.data.published_sets import COCO_UNUSED, PUBLISHED, coco_10k, coco_27, coco_171
from segproto.data.submission import submit
from segproto.data.verify import verify
from segproto.errors import DataError


def png(path: Path, values: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values.astype(np.uint8))
    if palette:
        picture.putpalette([7 * i % 256 for i in range(768)])
    picture.save(path)


def photo(path: Path, size: tuple[int, int] = (4, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)


def cityscapes(root: Path, coarse: bool = False) -> None:
    ids = np.arange(24).reshape(4, 6) + 5
    kind = "gtCoarse" if coarse else "gtFine"
    for split, city in (("train", "aachen"), ("train", "bochum"), ("val", "lindau")):
        name = f"{split}/{city}/{city}_000000_000019"
        photo(root / f"leftImg8bit/{name}_leftImg8bit.png")
        png(root / f"gtFine/{name}_{kind}_labelIds.png", ids)
        png(root / f"gtFine/{name}_{kind}_instanceIds.png", ids)


def zipped(folder: Path, archive: Path, above: str = "") -> None:
    with zipfile.ZipFile(archive, "w") as out:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                out.write(file, f"{above}{folder.name}/{file.relative_to(folder)}")
    shutil.rmtree(folder)


@pytest.mark.parametrize("packed", [False, True])
def test_cityscapes(tmp_path: Path, packed: bool) -> None:
    cityscapes(tmp_path)
    if packed:
        zipped(tmp_path / "leftImg8bit", tmp_path / "leftImg8bit_trainvaltest.zip")
        zipped(tmp_path / "gtFine", tmp_path / "gtFine_trainvaltest.zip")
    data = build_dataset(DataConfig(name="cityscapes", root=tmp_path), "train")
    assert data.names == ("aachen/aachen_000000_000019", "bochum/bochum_000000_000019")
    mask = data[1].mask.numpy().ravel()
    assert mask.tolist() == [255, 255, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, *range(8, 16)]
    assert data[0].image.shape == (3, 4, 6)
    assert len(data.fingerprint) == 16
    wide = build_dataset(DataConfig(name="cityscapes", variant="27", root=tmp_path), "val")
    assert wide[0].mask.numpy().ravel().tolist() == [255, 255, *range(22)]
    assert wide.classes.num_classes == 27
    assert (wide.classes.names[3], wide.classes.names[26]) == ("rail track", "bicycle")
    summary = completeness(PUBLISHED["cityscapes"], tmp_path)
    assert summary["counts"] == {"train": 2, "val": 1}
    assert summary["problems"][0] == "train: 2 images, the published set has 2975"


def test_cityscapes_coarse_is_refused(tmp_path: Path) -> None:
    cityscapes(tmp_path, coarse=True)
    with pytest.raises(DataError, match="only coarse labels are"):
        build_dataset(DataConfig(name="cityscapes", root=tmp_path), "val")
    (tmp_path / "gtFine").rename(tmp_path / "gtCoarse")
    with pytest.raises(DataError, match=r"only coarse labels are.*data\.coarse=true reads them"):
        build_dataset(DataConfig(name="cityscapes", root=tmp_path), "val")
    assert len(build_dataset(DataConfig(name="cityscapes", root=tmp_path, coarse=True), "val")) == 1


def test_voc_with_sbd(tmp_path: Path) -> None:
    """Official palette PNG, SBD's own MATLAB labels, and a training list without a validation image."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    values = np.array([[0, 1, 20, 255]])
    for name in ("2007_1", "2007_2", "2008_1", "2008_2"):
        photo(root / f"JPEGImages/{name}.jpg", (1, 4))
    for name in ("2007_1", "2007_2"):
        png(root / f"SegmentationClass/{name}.png", values, palette=True)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_1\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("2007_2\n")
    mats = root / "benchmark_RELEASE/dataset/cls"
    mats.mkdir(parents=True)
    for name in ("2007_2", "2008_1", "2008_2"):
        savemat(mats / f"{name}.mat", {"GTcls": {"Segmentation": values.astype(np.uint8), "Boundaries": 0}})
    data = build_dataset(DataConfig(name="voc", root=tmp_path), "train")
    assert data.names == ("2007_1", "2008_1", "2008_2")
    for i in (0, 1):
        assert data[i].mask.tolist() == [[0, 1, 20, 255]]
    small = build_dataset(DataConfig(name="voc", variant="train", root=root), "train")
    assert small.names == ("2007_1",)
    assert build_dataset(DataConfig(name="voc", root=root), "val").names == ("2007_2",)


def test_ade20k_coco_and_potsdam(tmp_path: Path) -> None:
    ade = tmp_path / "ade" / "ADEChallengeData2016"
    photo(ade / "images/training/ADE_train_00000001.jpg", (1, 3))
    png(ade / "annotations/training/ADE_train_00000001.png", np.array([[0, 1, 150]]))
    assert build_dataset(DataConfig(name="ade20k", root=ade.parent), "train")[0].mask.tolist() == [[255, 0, 149]]
    coco = tmp_path / "coco"
    for name in ("000000000001", "000000000002"):
        photo(coco / f"images/train2017/{name}.jpg", (1, 5))
        png(coco / f"stuffthingmaps/train2017/{name}.png", np.array([[0, 12, 91, 181, 255]]))
    (coco / "curated/train2017").mkdir(parents=True)
    (coco / "curated/train2017/Coco164kFull_Stuff_Coarse_7.txt").write_text("000000000002\n")
    settings = {"name": "coco_stuff", "root": coco}
    assert build_dataset(DataConfig(**settings), "train")[0].mask.tolist() == [[0, 12, 91, 181, 255]]
    assert build_dataset(DataConfig(**settings, variant="171"), "train")[0].mask.tolist() == [[0, 11, 80, 170, 255]]
    coarse = build_dataset(DataConfig(**settings, variant="27"), "train")
    assert coarse.names == ("000000000002",)
    assert coarse[0].mask.tolist() == [[9, 8, 17, 24, 255]]
    tiles = tmp_path / "potsdam"
    for folder in ("imgs", "gt"):
        (tiles / folder).mkdir(parents=True)
    savemat(tiles / "imgs/a.mat", {"img": np.arange(24, dtype=np.uint8).reshape(1, 6, 4)})
    savemat(tiles / "gt/a.mat", {"gt": np.array([[0, 1, 2, 3, 4, 5]], dtype=np.uint8)})
    (tiles / "labelled_train.txt").write_text("a\n")
    sample = build_dataset(DataConfig(name="potsdam", root=tiles), "train")[0]
    assert sample.mask.tolist() == [[0, 1, 2, 2, 0, 1]]
    assert sample.image[:, 0, 1].tolist() == [4, 5, 6]


def test_label_tables_against_plain_rules() -> None:
    used = [v for v in range(182) if v not in COCO_UNUSED]
    assert coco_171().table.num_classes == 171
    assert [coco_171().lookup[v] for v in used] == list(range(171))
    assert [coco_10k().lookup[v + 1] for v in used] == list(range(171))
    assert coco_10k().lookup[0] == 255
    assert sorted(set(coco_27().lookup) - {255}) == list(range(182))
    assert coco_27().table.num_classes == 27
    names = PUBLISHED["coco_stuff"].variants["182"]().table.names
    grouped = {n: coco_27().table.names[coco_27().lookup[i]] for i, n in enumerate(names)}
    assert (grouped["person"], grouped["dog"], grouped["pizza"], grouped["car"]) == (
        "person", "animal", "food (thing)", "vehicle",
    )  # fmt: skip


def test_roots_are_set_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cityscapes(tmp_path / "city")
    monkeypatch.delenv("CITYSCAPES", raising=False)
    monkeypatch.setenv("SEGPROTO_CONFIG", str(tmp_path / "data.yaml"))
    with pytest.raises(DataError, match=r"where cityscapes lies is not set: data.root=DIR, \$CITYSCAPES, or"):
        build_dataset(DataConfig(name="cityscapes"), "val")
    (tmp_path / "data.yaml").write_text(f"cityscapes: {tmp_path}/city\n")
    assert len(build_dataset(DataConfig(name="cityscapes"), "val")) == 1
    monkeypatch.setenv("CITYSCAPES", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"nowhere \(from \$CITYSCAPES or .*\) is not a folder; to unpack .*: segproto"):
        build_dataset(DataConfig(name="cityscapes"), "val")
    with pytest.raises(DataError, match=r"data\.variant=20: cityscapes has 19, 27"):
        build_dataset(DataConfig(name="cityscapes", variant="20"), "val")
    assert DataConfig(name="cityscapes", variant=27).variant == "27"  # as a command line gives it
    with pytest.raises(ValueError, match="variant is for name: cityscapes"):
        DataConfig(name="scenes", variant="27")


def small_set(*archives: Archive) -> Published:
    known = PUBLISHED["cityscapes"]
    return Published(
        "cityscapes", "t", "CITYSCAPES", "https://x", "terms", archives, known.variants, {"val": 1}, known.find
    )


def test_prepare_resumes_and_checks(tmp_path: Path) -> None:
    cityscapes(tmp_path / "all")
    zipped(tmp_path / "all", tmp_path / "all.zip")
    known, lines = small_set(Archive("all.zip", "gtFine")), list[str]()
    known = Published(**{**known.__dict__, "inner": "all"})
    summary = prepare(known, [tmp_path], tmp_path / "root", 2, lines.append)
    assert summary == {"counts": {"train": 2, "val": 1}, "problems": []}
    assert lines[-1] == "all.zip: 9 files unpacked, 0 were there"
    torn = tmp_path / "root/gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png"
    torn.unlink()
    prepare(known, [tmp_path / "all.zip"], tmp_path / "root", 1, lines.append)
    assert lines[-1] == "all.zip: 1 files unpacked, 8 were there"
    torn.write_bytes(b"mine")
    with pytest.raises(
        DataError, match=f"{torn}: is there, and is not what the archive has .*: move it away and repeat"
    ):
        prepare(known, [tmp_path / "all.zip"], tmp_path / "root", 2, lines.append)
    assert torn.read_bytes() == b"mine"
    assert not list((tmp_path / "root").rglob("*.part"))
    torn.unlink()
    wrong = Published(**{**known.__dict__, "archives": (Archive("all.zip", "gtFine", "md5:00"),)})
    with pytest.raises(DataError, match="expected 00; download it again"):
        prepare(wrong, [tmp_path], tmp_path / "root", 1, lines.append)
    with pytest.raises(DataError, match=r"--from .*gone\.zip: no such file or folder"):
        prepare(known, [tmp_path / "gone.zip"], tmp_path / "root", 1, lines.append)
    sets = small_set(Archive("other.zip", "nothing"), Archive("more.zip", "nothing", optional=True))
    with pytest.raises(DataError, match=r"cityscapes: other\.zip not found; get it from https://x"):
        prepare(sets, [tmp_path], tmp_path / "root", 1, lines.append)
    with pytest.raises(DataError, match=r"other\.zip not found; get it from https://x"):
        prepare(small_set(Archive("other.zip", "nothing")), [tmp_path], tmp_path / "root", 1, lines.append)


def test_archives_write_nothing_outside(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr("../evil.txt", "x")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        (tmp_path / "x").write_text("x")
        tar.add(tmp_path / "x", arcname="../../evil.txt")
    for name in ("a.zip", "a.tar"):
        with pytest.raises(DataError, match="would be written outside"):
            unpack(tmp_path / name, tmp_path / "root", "", 1, print)
    (tmp_path / "b.tar").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "b.tar", tmp_path / "root", "", 1, print)
    assert not (tmp_path / "evil.txt").exists()


def test_long_archives_tell_how_far_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segproto.data.prepare.PROGRESS_EVERY", 4)
    for i in range(10):
        png(tmp_path / f"all/{i}.png", np.full((2, 2), i))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "all", arcname="all")
    zipped(tmp_path / "all", tmp_path / "a.zip")
    for name, jobs, expected in (
        ("a.zip", 1, ["a.zip: 4 of 10 files", "a.zip: 8 of 10 files"]),
        ("a.zip", 2, ["a.zip: 4 of 10 files", "a.zip: 8 of 10 files"]),
        ("a.tar", 1, ["a.tar: 4 files", "a.tar: 8 files"]),
    ):
        lines: list[str] = []
        root = tmp_path / f"{name}{jobs}"
        assert unpack(tmp_path / name, root, "all", jobs, lines.append)[:2] == (10, 0)
        assert (lines, len(list(root.glob("*.png")))) == (expected, 10)


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner().invoke(app, ["data", "list", "voc"])
    assert run.exit_code == 0, run.output
    assert "VOCtrainval_11-May-2012.tar" in run.output
    assert "Flickr" in run.output
    run = CliRunner().invoke(app, ["data", "list", "em"])
    assert (run.exit_code, "imagej.net" in run.output, "terms on" in run.output) == (0, True, True)
    run = CliRunner().invoke(app, ["data", "verify", "citscapes"])
    assert "'citscapes' is neither a folder nor a data set; did you mean cityscapes?" in str(run.exception)
    cityscapes(tmp_path / "root")
    root = f"data.root={tmp_path / 'root'}"
    run = CliRunner().invoke(app, ["data", "verify", "cityscapes", root, "data.variant=27"])
    assert "train: 2 images, the published set has 2975" in run.output
    run = CliRunner().invoke(
        app, ["data", "prepare", "cityscapes", "--from", str(tmp_path), "--root", str(tmp_path / "root")]
    )
    assert run.exit_code == 1
    assert "train: 2 images, the published set has 2975" in run.output


def test_verify_tells_counts_and_coarse_labels(tmp_path: Path) -> None:
    cityscapes(tmp_path)
    void = np.zeros((4, 6))
    void[0] = 7
    png(tmp_path / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png", void)
    problems = verify(DataConfig(name="cityscapes", root=tmp_path)).problems
    assert "val: 1 images, the published set has 500" in problems
    assert "val: 75% of the pixels are void, as in coarse labels (fine ones: about 10%)" in problems


def test_classes_that_no_label_has_are_a_note(tmp_path: Path) -> None:
    for split in ("train", "val"):
        photo(tmp_path / f"images/{split}2017/1.jpg", (1, 171))
        png(tmp_path / f"annotations/{split}2017/1.png", np.array([[v for v in range(182) if v not in COCO_UNUSED]]))
    report = verify(DataConfig(name="coco_stuff", root=tmp_path))
    assert [line for line in report.problems if "pixel" in line] == []
    assert report.notes == ["11 of the classes in no published label: " + report.notes[0].partition(": ")[2]]
    assert report.notes[0].partition(": ")[2].startswith("street sign, hat, shoe")
    png(tmp_path / "annotations/train2017/1.png", np.zeros((1, 171)))
    lines = verify(DataConfig(name="coco_stuff", root=tmp_path)).problems
    assert "class 'bicycle' has no pixel in the train split" in lines
    assert len([line for line in lines if "has no pixel" in line]) == 170


def test_lookup_of_bytes_equals_that_of_numbers() -> None:
    labels = PUBLISHED["cityscapes"].variants["27"]()
    stored = np.random.default_rng(0).integers(0, 256, (7, 9))
    assert isinstance(labels, LabelMap)
    np.testing.assert_array_equal(labels.apply(stored.astype(np.uint8), "a"), labels.apply(stored, "a"))


@pytest.mark.parametrize(("name", "file"), [("cityscapes", "a.zip"), ("voc", "a.tgz")])
def test_an_archive_for_a_server_does_not_tell_the_time(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    png(tmp_path / "masks/a.png", np.array([[0, 1, 11, 18]]))
    submit(name, tmp_path / "masks", tmp_path / file)
    first = (tmp_path / file).read_bytes()
    monkeypatch.setattr("time.time", lambda: 1e9)
    submit(name, tmp_path / "masks", tmp_path / file)
    assert (tmp_path / file).read_bytes() == first


def test_predictions_for_the_servers(tmp_path: Path) -> None:
    """What each server would read back, with its own numbers."""
    masks = tmp_path / "masks"
    png(masks / "berlin/berlin_000000_000019_leftImg8bit.png", np.array([[0, 1, 11, 18]]))
    assert submit("cityscapes", masks, tmp_path / "a.zip") == 1
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["berlin_000000_000019_pred.png"]
        picture = Image.open(io.BytesIO(archive.read(archive.namelist()[0])))
        assert (picture.mode, np.asarray(picture).tolist()) == ("L", [[7, 8, 24, 33]])
    assert submit("voc", masks, tmp_path / "a.tgz") == 1
    with tarfile.open(tmp_path / "a.tgz") as tar:
        member = "results/VOC2012/Segmentation/comp6_test_cls/berlin_000000_000019_leftImg8bit.png"
        assert tar.getnames() == [member]
        picture = Image.open(io.BytesIO(tar.extractfile(member).read()))  # type: ignore[union-attr]
        assert (picture.mode, np.asarray(picture).tolist()) == ("P", [[0, 1, 11, 18]])
        assert picture.convert("RGB").getpixel((1, 0)) == (128, 0, 0)  # aeroplane
        assert picture.convert("RGB").getpixel((2, 0)) == (192, 128, 0)  # diningtable
    submit("ade20k", masks, tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        picture = Image.open(io.BytesIO(archive.read(archive.namelist()[0])))
        assert np.asarray(picture).tolist() == [[1, 2, 12, 19]]
    png(masks / "x.png", np.array([[19]]))
    before = (tmp_path / "a.zip").read_bytes()
    with pytest.raises(DataError, match=r"x\.png: value 19 is none of the 19 classes"):
        submit("cityscapes", masks, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == before
    run = CliRunner().invoke(app, ["data", "submit", "voc", str(masks), "--out", str(tmp_path / "a.tgz")])
    assert "2 masks" in run.output
    assert "the test set has 1456 images" in run.output
    with pytest.raises(DataError, match=r"ending in \.tgz"):
        submit("voc", masks, tmp_path / "a.zip")
    with pytest.raises(DataError, match="no server takes"):
        submit("potsdam", masks, tmp_path / "a.zip")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no masks"):
        submit("voc", tmp_path / "none", tmp_path / "a.tgz")


@pytest.mark.data
def test_fixtures_read_like_the_official_files() -> None:
    root = Path(os.environ.get("SEGPROTO_DATA", "/nowhere"))
    if not (root / "cityscapes8").is_dir():
        pytest.skip("no $SEGPROTO_DATA")
    stored = Image.open(sorted((root / "cityscapes8/labels").glob("*.png"))[0])
    values = np.asarray(stored)
    for variant, classes in (("19", 19), ("27", 27)):
        mask = PUBLISHED["cityscapes"].variants[variant]().apply(values, "a")
        assert set(np.unique(mask)) <= {*range(classes), 255}
        assert (mask == 255).mean() < 0.35  # gtFine: coarse labels leave more void
    for file in sorted((root / "cocostuff21/labels").glob("*.png")):
        values = np.asarray(Image.open(file))
        fine, groups = coco_171().apply(values, file), coco_27().apply(values, file)
        assert ((fine == 255) == (values == 255)).all()
        assert ((groups == 255) == (values == 255)).all()


def test_archives_that_cannot_be_unpacked(tmp_path: Path) -> None:
    """Encrypted, of a compression that Python does not know, or cut off."""
    known = small_set(Archive("a.zip", "gtFine"))
    with zipfile.ZipFile(tmp_path / "whole.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("gtFine/a.txt", "text " * 50)
    whole = (tmp_path / "whole.zip").read_bytes()
    central = whole.index(b"PK\x01\x02")

    def changed(first: int, second: int, value: int) -> bytes:
        content = bytearray(whole)
        content[first], content[central + second] = value, value
        return bytes(content)

    for content, words in (
        (changed(6, 8, 1), "encrypted"),
        (changed(8, 10, 97), "compression"),
        (whole[: central - 20] + whole[central:], "cannot be unpacked"),
    ):
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(DataError, match=rf"a\.zip.*{words}.*download it again"):
            prepare(known, [tmp_path / "a.zip"], tmp_path / "root", 1, lambda line: None)
        assert not list((tmp_path / "root").rglob("*.*"))
