"""Every layout: recognised and said, its classes.yaml written, each mask read as it was drawn, its split kept."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from command_line import Cli
from PIL import Image
from tiny_annotations import ANNOTATIONS
from tiny_layouts import COUNT, EXPORTS, PICTURES, VAL, Export, anti_aliased, image_of, mask_of, save

from segproto.data.build import build_dataset
from segproto.data.classes import find_classes
from segproto.data.config import DataConfig
from segproto.data.layouts.pairing import rules
from segproto.data.layouts.recognise import recognise
from segproto.data.layouts.table import LAYOUTS
from segproto.data.look import look_at_folder
from segproto.data.verify import verify
from segproto.errors import DataError

TINY = [
    *("encoder.name=unet", "encoder.backbone=null", "encoder.layers=null", "encoder.layer_norm=false"),
    *("encoder.frozen=false", "encoder.width=4", "encoder.dim=8", "encoder.output_stride=4", "data.augment.crop=32"),
    *("train.cache_features=false", "train.batch_size=2", "train.precision=32-true", "train.accelerator=cpu"),
    "stages.joint.steps=1",
]


def made(export: Export, folder: Path) -> Path:
    """The folder or archive that a person has."""
    root = folder / "export"
    export.make(root)
    archive = root.with_suffix(".zip")
    return archive if archive.exists() else root


def index_of(name: str) -> int:
    """Which image it is: the last digit but those of Cityscapes' frames."""
    return int(re.findall(r"\d+", name.replace("_000019", "").replace("_jpg.rf.00", "_"))[-1])


@pytest.mark.parametrize("name", [*PICTURES, *ANNOTATIONS])
def test_a_layout_is_read_as_it_is(name: str, tmp_path: Path, cli: Cli) -> None:
    export = EXPORTS[name]
    root = made(export, tmp_path)
    answer = cli("data", "init", root)
    assert answer.code == 0, answer.err
    assert export.words in answer.out
    config = DataConfig(root=root)
    report = verify(config)
    assert report.problems == []
    assert export.words in report.layout
    train, val = build_dataset(config, "train"), build_dataset(config, "val")
    assert train.classes.names == export.classes
    found = {split: sorted(index_of(n) for n in s.names) for split, s in (("train", train), ("val", val))}
    assert sorted(found["train"] + found["val"]) == list(range(COUNT))
    assert found["val"] == list(VAL) if export.split else len(found["val"]) == 1
    for dataset in (train, val):
        for k in range(len(dataset)):
            sample = dataset[k]
            expected = export.classes_of(index_of(sample.name))
            np.testing.assert_array_equal(sample.mask.numpy(), expected, err_msg=sample.name)
            image = sample.image.permute(1, 2, 0).numpy().astype(int)
            assert np.abs(image - image_of(index_of(sample.name))).mean() < 25  # JPEG with chroma at half size
    assert trains(root, tmp_path / "run", cli)


def trains(root: Path, out: Path, cli: Cli) -> bool:
    """Whether one command trains from it, whose first line says how it is read."""
    answer = cli("train", "blackbox/folder", f"data.root={root}", *TINY, "--out", out)
    assert answer.code == 0, answer.err
    assert "data: read as " in answer.err
    return (out / "model" / "model.json").is_file()


def test_a_classes_file_is_never_written_over(tmp_path: Path, cli: Cli) -> None:
    root = made(EXPORTS["prefixes"], tmp_path)
    (root / "classes.yaml").write_text("classes: [a]\n")
    answer = cli("data", "init", root)
    assert answer.code == 2
    assert "is there already and is left as it is" in answer.err
    assert (root / "classes.yaml").read_text() == "classes: [a]\n"
    assert cli("data", "init", root, "--out", tmp_path / "other.yaml").code == 0
    assert f"data.classes={tmp_path / 'other.yaml'}" in cli(
        "data", "init", root, "--out", tmp_path / "more.yaml"
    ).out.replace("more", "other")


def test_the_page_lists_every_layout_that_is_tested() -> None:
    page = (Path(__file__).parents[2] / "docs/own-data.md").read_text()
    rows = re.findall(rf"^\| ([^|]+?) \| [^|]+ \| (?:{'|'.join(LAYOUTS)}) \|$", page, re.M)
    assert rows == [*PICTURES, *ANNOTATIONS]
    assert len(rows) >= 18


@pytest.mark.parametrize("name", PICTURES)
def test_the_settings_that_are_named_read_the_same(name: str, tmp_path: Path) -> None:
    root = made(PICTURES[name], tmp_path)
    finding = recognise(DataConfig(root=root), root)
    if finding is None or root.suffix == ".zip":
        return
    settings = {key.removeprefix("data."): value for key, value in finding.settings.items()}
    (root / "classes.yaml").write_text("classes: [{name: a, values: 0}]\nrest: nearest\n")
    kept = {split: build_dataset(DataConfig(root=root), split) for split in ("train", "val")}
    for split, dataset in kept.items():
        again = build_dataset(DataConfig(root=root, **settings, split=None), split)
        if not any(item.split for item in finding.items) or "{split}" in str(settings):
            assert again.names == dataset.names
            assert [again.path(i) for i in range(len(again))] == [dataset.path(i) for i in range(len(dataset))]


def test_a_layout_can_be_forced_and_recognition_turned_off(tmp_path: Path) -> None:
    root = made(EXPORTS["prefixes"], tmp_path)
    (root / "classes.yaml").write_text("classes: [a, b, c]\n")
    assert len(build_dataset(DataConfig(root=root, layout="pictures"), "train")) == COUNT - 1
    with pytest.raises(DataError, match="labels: no such folder"):
        build_dataset(DataConfig(root=root, layout="folder"), "train")


def test_two_masks_for_each_image_are_asked_about_by_settings(tmp_path: Path) -> None:
    """DRIVE as it is distributed: vessels by hand, and the field of view."""
    for split in ("training", "test"):
        for i in range(3):
            save(tmp_path / f"{split}/images/2{i}_{split}.tif", image_of(i))
            save(tmp_path / f"{split}/1st_manual/2{i}_manual1.gif", (mask_of(i) > 0).astype(np.uint8))
            save(tmp_path / f"{split}/mask/2{i}_{split}_mask.gif", (mask_of(i) > 1).astype(np.uint8))
    (tmp_path / "classes.yaml").write_text("classes: [a, b]\n")
    with pytest.raises(DataError, match="may be read in 2 ways; say which") as caught:
        build_dataset(DataConfig(root=tmp_path), "train")
    assert "data.labels='{split}/1st_manual/*_manual1.gif'" in str(caught.value)


def test_a_validation_folder_is_not_ignored_and_test_images_do_not_train(tmp_path: Path) -> None:
    """``images/`` and ``labels/`` as the guide has them, with other names of splits than train and val."""
    for words, expected in ((("training", "valid"), list(VAL)), (("train", "test"), None)):
        root = tmp_path / words[1]
        for i in range(COUNT):
            split = words[i in VAL]
            save(root / f"images/{split}/p{i}.png", image_of(i))
            save(root / f"labels/{split}/p{i}.png", mask_of(i))
        (root / "classes.yaml").write_text("classes: [a, b, c]\n")
        train, val = (build_dataset(DataConfig(root=root), split) for split in ("train", "val"))
        if expected is not None:
            assert [index_of(n) for n in val.names] == expected
        else:
            assert all(index_of(n) not in VAL for n in (*train.names, *val.names))
            assert (len(train), len(val)) == (3, 1)


def test_zero_and_255_are_explained_before_and_after_there_are_classes(tmp_path: Path) -> None:
    root = made(EXPORTS["suffix and 0/255"], tmp_path)
    report = verify(DataConfig(root=root))
    assert "data init" in report.problems[0]
    (note,) = report.notes
    assert "2 values: 0 (" in note
    assert "255 is void by convention; where it is the object, it must be a class" in note
    (root / "classes.yaml").write_text("classes: [background, object]\n")
    report = verify(DataConfig(root=root))
    assert any("nothing can be learned from one class" in line for line in report.problems)
    (root / "classes.yaml").write_text("classes: [{name: a, values: 0}, {name: b, values: 255}]\n")
    assert verify(DataConfig(root=root)).problems == []


def test_anti_aliased_colours_are_shown_with_the_nearest_and_counted(tmp_path: Path, cli: Cli) -> None:
    anti_aliased(tmp_path)
    answer = cli("data", "init", tmp_path)
    text = (tmp_path / "classes.yaml").read_text()
    for colour in ("#000000", "#c81e28", "#143cdc"):
        assert f"values: '{colour}'" in text
    assert text.count("values: '#") == 3
    assert "rest: nearest" in text
    assert re.search(r"#   #\w{6}: \d+ pixels, nearest #(000000|c81e28|143cdc)", text)
    assert "anti-aliasing" in answer.out
    report = verify(DataConfig(root=tmp_path))
    assert report.problems == []
    assert any("hold values that no class lists and count as the nearest listed one" in note for note in report.notes)


def test_many_files_with_one_problem_are_one_line(tmp_path: Path) -> None:
    root = made(EXPORTS["prefixes"], tmp_path)
    (root / "classes.yaml").write_text("classes: [a, b]\n")
    lines = verify(DataConfig(root=root)).to_json()["problems"]
    (line,) = lines
    assert "value 2 in" in line
    assert "(and 5 files more with the same problem)" in line


def test_what_no_layout_knows_is_said_with_the_settings(tmp_path: Path) -> None:
    save(tmp_path / "scans/a.png", image_of(0))
    with pytest.raises(DataError, match=r"scans/ \(1 pictures\).*data\.images='images/\*\.jpg'"):
        build_dataset(DataConfig(root=tmp_path), "train")


def test_two_files_that_one_setting_mends_are_one_line(tmp_path: Path) -> None:
    for name in ("t 0", "t 1", "u"):
        four = np.zeros((8, 8, 4), np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / f"images/{name}.tif", four, photometric="rgb", extrasamples=["unspecified"])
        save(tmp_path / f"labels/{name}.png", np.zeros((8, 8), np.uint8))
    (tmp_path / "classes.yaml").write_text("classes: [a]\n")
    (line,) = verify(DataConfig(root=tmp_path)).to_json()["problems"]
    assert "has 4 bands; say which the model is to see: data.bands=[1, 2, 3, 4]" in line
    assert line.endswith("(and 2 files more with the same problem)")


def test_boxes_and_volumes_are_called_what_they_are(tmp_path: Path) -> None:
    save(tmp_path / "yolo/images/a.jpg", image_of(0))
    (tmp_path / "yolo/labels").mkdir()
    (tmp_path / "yolo/labels/a.txt").write_text("0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.1 0.1\n")
    with pytest.raises(DataError, match=r"1 text files \(such as labels/a.txt\) hold boxes.* and boxes are no masks: "):
        build_dataset(DataConfig(root=tmp_path / "yolo"), "train")
    for name in ("imagesTr/case_0000.nii.gz", "labelsTr/case.nii.gz", "dataset.json"):
        (tmp_path / "nnunet" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "nnunet" / name).write_bytes(b"{}")
    with pytest.raises(DataError, match=r"2 files \(such as imagesTr/case_0000.nii.gz\) are volumes.*data.pages=all"):
        build_dataset(DataConfig(root=tmp_path / "nnunet"), "train")


def test_further_channels_of_a_case_are_told(tmp_path: Path) -> None:
    root = made(EXPORTS["nnU-Net"], tmp_path)
    for file in sorted((root / "imagesTr").iterdir()):
        save(file.with_name(file.name.replace("_0000", "_0001")), image_of(0))
    (note,) = [note for note in verify(DataConfig(root=root)).notes if "channels" in note]
    assert "further channels (such as" in note
    assert "save the channels of a case as the bands of one TIFF and set data.bands" in note


@pytest.mark.parametrize(
    ("images", "masks", "affixes"),
    [
        (["a", "b"], ["a", "b"], ("", "", "", "")),
        (["img_1", "img_10", "img_11"], ["mask_1", "mask_10", "mask_11"], ("img_", "", "mask_", "")),
        (["21_training", "22_training"], ["21_manual1", "22_manual1"], ("", "_training", "", "_manual1")),
        (["c_001_0000", "c_002_0000"], ["c_001", "c_002"], ("", "_0000", "", "")),
        (["im1", "im2", "im12"], ["gt1", "gt2", "gt12"], ("im", "", "gt", "")),
    ],
)
def test_names_go_together(images: list[str], masks: list[str], affixes: tuple[str, ...]) -> None:
    (rule,) = rules(images, masks)
    assert (rule.image_prefix, rule.image_suffix, rule.mask_prefix, rule.mask_suffix) == affixes


def test_names_that_share_only_letters_do_not(tmp_path: Path) -> None:
    assert rules(["animated"], ["mask_cmyk"]) == []


def test_a_shipped_table_splits_by_the_list_beside_it(tmp_path: Path) -> None:
    listed = find_classes(Path("msrc21"), tmp_path).with_name("msrc21_val.txt").read_text().splitlines()
    held_out = [name for name in listed if name and not name.startswith("#")]
    for name in (*held_out, "1_1_s"):
        for kind in ("images", "labels"):
            save(tmp_path / kind / f"{name}.png", np.full((8, 8), 2, np.uint8))
    finding = look_at_folder(DataConfig(root=tmp_path, classes=Path("msrc21")))
    assert {item.name: item.split for item in finding.items} == {"1_1_s": "train", **dict.fromkeys(held_out, "val")}


def test_the_rule_that_is_given_is_the_one_that_is_said(tmp_path: Path) -> None:
    root = made(EXPORTS["prefixes"], tmp_path)
    for rule, words in (
        ("{val_fraction: 0.5}", "validation is 50% of the images, drawn at random"),
        ('{val_pattern: "[45]"}', "split by train (4 train) and val (2 val)"),
    ):
        (root / "classes.yaml").write_text(f"classes: [a, b, c]\nsplit: {rule}\n")
        report = verify(DataConfig(root=root))
        assert words in report.layout
        assert len(build_dataset(DataConfig(root=root), "val")) == (3 if "fraction" in rule else 2)


def test_settings_that_fit_no_file_are_answered_with_those_that_do(tmp_path: Path) -> None:
    root = made(EXPORTS["suffix and 0/255"], tmp_path)
    (root / "classes.yaml").write_text("classes: [a, b]\n")
    words = r"p0\.jpg: has no mask; expected .*p0\.png.* none of 6 images has one; what is there can be read with "
    with pytest.raises(DataError, match=words + r"data\.images='images/\*\.jpg' data\.labels='masks/\*_mask\.png'"):
        build_dataset(DataConfig(root=root, labels="masks"), "train")


@pytest.mark.parametrize(
    ("image", "mask"),
    [("img_{:05d}", "mask_{:05d}"), ("scan{}_rgb", "scan{}_seg_v2"), ("a{}_0000", "a{}"), ("c{}", "c{}")],
)
def test_thousands_of_names_go_together_at_once(image: str, mask: str) -> None:
    numbers = range(0, 40_000, 7)
    (rule,) = rules([image.format(n) for n in numbers], [mask.format(n) for n in numbers])
    names = [(rule.image_name(image.format(n)), rule.mask_name(mask.format(n))) for n in numbers]
    assert all(a == b is not None for a, b in names)


def write(root: Path, images: str, masks: str) -> None:
    for i in range(3):
        save(root / images.format(i), image_of(i))
        save(root / masks.format(i), mask_of(i))


@pytest.mark.parametrize(
    ("images", "masks", "words"),
    [
        ("train/c{}_01.jpg", "train_masks/c{}_01_mask.gif", "train/*.jpg with train_masks/*_mask.gif"),
        ("pets/images/cat_{}.jpg", "pets/annotations/trimaps/cat_{}.png", "pets/images/*.jpg with pets/annotations"),
        (
            "I_Training_Input/I_{}.jpg",
            "I_Training_GroundTruth/I_{}_segmentation.png",
            "_GroundTruth/*_segmentation.png",
        ),
        ("d/train/images/a{}.tif", "d/train/gt/a{}.tif", "d/train/images/*.tif with d/train/gt/*.tif"),
        (
            "2_Ortho_RGB/top_{}_RGB.tif",
            "5_Labels_all/top_{}_label.tif",
            "2_Ortho_RGB/*_RGB.tif with 5_Labels_all/*_label.tif",
        ),
        ("g_{}.bmp", "g_{}_anno.bmp", "*.bmp with *_anno.bmp"),
        ("p{}/image/0.png", "p{}/mask/0.png", "image/*.png with mask/*.png"),
        ("img_dir/train/m{}.jpg", "ann_dir/train/m{}.png", "img_dir/train/*.jpg with ann_dir/train/*.png"),
    ],
)
def test_public_sets_as_they_come(images: str, masks: str, words: str, tmp_path: Path) -> None:
    """Carvana, Oxford pets, ISIC, Inria, Potsdam, GlaS, a folder per patient, mmsegmentation."""
    write(tmp_path, images, masks)
    finding = recognise(DataConfig(root=tmp_path), tmp_path)
    assert finding is not None
    assert words in finding.line()
    assert len(finding.masked) == 3
    settings = {key.removeprefix("data."): value for key, value in finding.settings.items()}
    if settings:  # where settings can say it, they say the same
        (tmp_path / "classes.yaml").write_text("classes: [a, b, c]\n")
        again = look_at_folder(DataConfig(root=tmp_path, **settings))
        assert {item.name: item.mask for item in again.items} == {item.name: item.mask for item in finding.items}


def test_a_validation_folder_without_masks_is_said_to_be_left_out(tmp_path: Path) -> None:
    """DeepGlobe, as it is distributed."""
    write(tmp_path, "train/{}12_sat.jpg", "train/{}12_mask.png")
    save(tmp_path / "valid/934_sat.jpg", image_of(0))
    finding = look_at_folder(DataConfig(root=tmp_path))
    assert finding.notes == ["1 images of valid/ are left out: none has a mask"]
    assert [item.name for item in finding.items] == ["012", "112", "212"]


def test_masks_without_images_are_called_so(tmp_path: Path) -> None:
    save(tmp_path / "SegmentationClass/a.png", mask_of(0))
    with pytest.raises(DataError, match="masks without their images: put the images beside them"):
        build_dataset(DataConfig(root=tmp_path), "train")


def test_settings_reach_into_a_zip_archive(tmp_path: Path) -> None:
    picture, mask = Image.new("RGB", (9, 7)), Image.fromarray(np.eye(7, 9, dtype=np.uint8))
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            for kind, name, what in (("pics", f"{number}.jpg", picture), ("segs", f"{number}_m.png", mask)):
                file = tmp_path / "a" / kind / split / name
                file.parent.mkdir(parents=True, exist_ok=True)
                what.save(file)
    (tmp_path / "a/pics/__MACOSX").mkdir()
    (tmp_path / "a/pics/__MACOSX/x.jpg").write_bytes(b"resource fork")
    shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path / "a")
    (tmp_path / "c.yaml").write_text("classes: [a, b]\n")
    common = {"root": tmp_path / "x.zip", "classes": tmp_path / "c.yaml"}
    suffixed = DataConfig(**common, images="pics", labels="segs", label_suffix="_m")
    assert verify(suffixed).ok
    assert verify(suffixed).settings["data.label_suffix"] == "_m"
    assert [len(build_dataset(suffixed, split)) for split in ("train", "val")] == [3, 2]
    starred = DataConfig(**common, images="pics/train/*.jpg", labels="segs/train/*_m.png")
    assert len(build_dataset(starred, "train")) + len(build_dataset(starred, "val")) == 3
    (tmp_path / "a/train.txt").write_text("0\n2\n")
    shutil.make_archive(str(tmp_path / "y"), "zip", tmp_path / "a")
    listed = starred.model_copy(update={"root": tmp_path / "y.zip"})
    assert build_dataset(listed, "train").names == ("0", "2")
    assert build_dataset(listed, "val").names == ("1",)
    wrong = DataConfig(**common, images="photos", labels="segs")
    with pytest.raises(DataError, match=r"x\.zip/photos: no such folder; set data\.images"):
        build_dataset(wrong, "train")
