"""The shipped recipes against the published settings, and the class tables on trees with the official file names."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import segproto
from segproto.data.build import build_dataset, list_folder
from segproto.data.classes import find_classes, read_classes
from segproto.data.config import DataConfig
from segproto.data.pairs import read_list
from segproto.errors import DataError
from segproto.methods import METHODS
from segproto.runs.catalogue import read_recipe
from segproto.runs.catalogue import shipped as shipped_recipes
from segproto.training.recipe import Recipe, apply_overrides, dump_recipe, validate_recipe

needs_data = pytest.mark.skipif("SEGPROTO_DATA" not in os.environ, reason="SEGPROTO_DATA is not set")
SHIPPED = [(method, recipe) for method, _, recipe in (name.partition("/") for name in shipped_recipes())]
DATASETS = ("cityscapes", "voc", "ade20k", "em", "coco_stuff")

# Published settings, transcribed by hand from the papers' configurations, a column a data set of DATASETS.
CLASSES = (19, 21, 150, 2, 182)
CROP = (513, 321, 512, 512, 321)
SCALE = ((0.5, 1.5), (0.5, 1.5), (0.5, 2.0), (0.5, 1.5), (0.5, 1.5))
MSC = ([], [0.5, 0.75], [], [], [0.5, 0.75])
BATCH = (2, 2, 2, 2, 10)
ACCUMULATE = (5, 5, 5, 1, 1)
STEPS = {
    "warmup": (15000, 15000, 30000, 0, 6000),
    "joint": (150000, 150000, 300000, 10000, 100000),
    "finetune": (10000, 30000, 20000, 10000, 4000),
    "group_warmup": (10000, 10000, 10000, 0, 2000),
    "group_joint": (150000, 150000, 150000, 10000, 30000),
}
PATIENCE = (100, 100, 100, 1000, 100)
DIVERSITY = (0.25,) * 5
L1 = (1e-4, 1e-4, 1e-5, 1e-4, 1e-5)
L1_GROUPS = (1e-3, 1e-3, 1e-4, 1e-4, 1e-4)
ENTROPY = (0.05, 0.05, 0.25, 0.05, 0.25)
NECK_LR = (2.5e-4, 2.5e-4, 2.5e-4, 1e-4, 2.5e-4)
BACKBONE_LR = (2.5e-5, 2.5e-5, 2.5e-5, 1e-4, 2.5e-5)
GROUP_LR = (2.5e-4, 2.5e-4, 2.5e-4, 5e-5, 2.5e-4)
PROTOTYPES = {"protoseg": (190, 210, 1800, 20, 2184), "scaleproto": (228, 252, 1800, 24, 2184)}
SEEDED = ("camvid", "folder")  # short runs on frozen features start from a linear warm-up and seeded prototypes
GROUP_SEEDED = ("scenes", "camvid", "folder")  # of scaleproto: groups begin at the readout of the prototypes
PUBLISHED = ("blackbox", "protoseg", "scaleproto")  # with a recipe for each of DATASETS
STAGES = {
    "blackbox": ["warmup", "joint"],
    "memory": ["remember"],
    "posthoc": ["joint", "rotate", "trace"],
    "nonparametric": ["joint", "trace"],
    "pixelcontrast": ["contrast", "cams", "crf", "affinity", "masks", "segment"],
    "primaps": ["proposals", "init", "kmeans", "em", "found"],
    "protoseg": ["warmup", "joint", "project", "finetune", "prune", "prune_finetune"],
    "scaleproto": ["warmup", "joint", "project", "finetune", "group_warmup", "group_joint", "threshold"],
}


def shipped(method: str, name: str, *overrides: str) -> Recipe:
    entry = METHODS[method]
    return validate_recipe(apply_overrides(read_recipe(f"{entry.name}/{name}"), overrides), entry.recipe)


@pytest.mark.parametrize(("method", "name"), SHIPPED)
def test_every_recipe_is_valid_and_has_its_stages(method, name):
    recipe = shipped(method, name)
    assert recipe.method == method
    names = [stage.name for stage in METHODS[method].stages(recipe) if stage.name != "group_seed"]
    assert (names != [stage.name for stage in METHODS[method].stages(recipe)]) == (
        method == "scaleproto" and name.startswith(GROUP_SEEDED) and name != "scenes-published"
    )
    seeded = method not in ("blackbox", "memory", "pixelcontrast", "posthoc", "primaps") and name.startswith(SEEDED)
    seeded |= method in ("protoseg", "scaleproto") and name == "scenes"
    skipped = {"proposals"} if name.endswith("-baseline") else set()
    skipped |= {"crf", "affinity"} if name.startswith("voc-eps") else set()  # no walk
    assert names == (["linear", "seed"] if seeded else []) + [stage for stage in STAGES[method] if stage not in skipped]


@pytest.mark.parametrize("method", PUBLISHED)
@pytest.mark.parametrize("name", DATASETS)
def test_published_settings(method, name):
    column = DATASETS.index(name)
    recipe = shipped(method, name)
    assert (recipe.data.augment.crop, recipe.data.augment.scale) == (CROP[column], SCALE[column])
    assert recipe.data.augment.flip
    assert (recipe.encoder.msc, recipe.train.batch_size) == (MSC[column], BATCH[column])
    assert (recipe.encoder.name, recipe.encoder.width) == ("unet" if name == "em" else "deeplabv2_resnet101", 64)
    assert (recipe.encoder.rates, recipe.encoder.dim, recipe.train.seed) == ([6, 12, 18, 24], 64, 20220227)
    stages = recipe.stages
    for stage in ("warmup", "joint"):
        assert getattr(stages, stage).steps == STEPS[stage][column]
        assert getattr(stages, stage).accumulate == (ACCUMULATE[column] if STEPS[stage][column] else 1)
    assert (stages.joint.lr.neck, stages.joint.lr.backbone) == (NECK_LR[column], BACKBONE_LR[column])
    assert (stages.joint.schedule, stages.joint.weight_decay, stages.joint.optimizer) == ("poly", 5e-4, "adam")
    assert (stages.joint.norms, stages.warmup.norms) == ("train" if name == "em" else "frozen", "frozen")
    if method != "blackbox":
        check_prototypes(method, name, recipe)


def check_prototypes(method, name, recipe):
    column, stages = DATASETS.index(name), recipe.stages
    scales = 1 if recipe.encoder.fusion == "sum" else len(recipe.encoder.rates)
    assert CLASSES[column] * scales * recipe.model.prototypes == PROTOTYPES[method][column]
    assert (recipe.model.diversity.sign, recipe.model.diversity.unshifted_labels) == (1, False)
    assert stages.joint.diversity == DIVERSITY[column]
    assert (stages.joint.lr.prototypes, stages.joint.lr.readout) == (NECK_LR[column], 0)
    if stages.warmup.steps:
        assert stages.warmup.diversity == DIVERSITY[column]
        assert stages.warmup.lr.model_dump() == {
            "backbone": 0, "neck": 2.5e-4, "prototypes": 2.5e-4, "groups": 0, "readout": 0,
        }  # fmt: skip
    last_layer = [stages.finetune] + ([stages.prune_finetune] if method == "protoseg" else [])
    for finetune in last_layer:
        assert (finetune.steps, finetune.accumulate) == (STEPS["finetune"][column], ACCUMULATE[column])
        assert (finetune.l1, finetune.patience, finetune.schedule) == (L1[column], PATIENCE[column], "constant")
        assert {part: lr for part, lr in finetune.lr.model_dump().items() if lr} == {"readout": 1e-5}
    images = Path("ImageSets/Segmentation/train.txt") if name == "voc" else None
    assert stages.project.images == images
    assert stages.project.absent == ("drop" if name == "coco_stuff" else "refuse")
    if method == "protoseg":
        assert stages.project.membership == ("nearest_label" if name in ("ade20k", "coco_stuff") else "any_pixel")
        assert (stages.prune.k, stages.prune.threshold, stages.prune.images) == (6, 3, images)
        return
    assert stages.project.membership == "nearest_label"
    assert (recipe.model.groups, stages.threshold.tau) == (3, 0.05)
    for stage in ("group_warmup", "group_joint"):
        config = getattr(stages, stage)
        assert config.steps == STEPS[stage][column]
        if config.steps:
            assert (config.l1, config.entropy) == (L1_GROUPS[column], ENTROPY[column])
            assert (config.accumulate, config.lr.groups) == (ACCUMULATE[column], GROUP_LR[column])
    assert (stages.group_joint.lr.readout, stages.group_joint.schedule) == (GROUP_LR[column], "poly")


def write(path: Path, values=None) -> None:
    """A 2x3 image, or a mask with these six values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.arange(18).reshape(2, 3, 3) if values is None else np.array(values).reshape(2, 3)
    Image.fromarray(array.astype(np.uint8)).save(path)


def make_cityscapes(root):
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "lindau"), ("test", "berlin")):
        stem = f"{city}_000000_000019"
        write(root / f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png")
        write(root / f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png", [7, 8, 33, 0, 29, 255])
        for other in ("color", "instanceIds", "labelTrainIds"):
            write(root / f"gtFine/{split}/{city}/{stem}_gtFine_{other}.png")
        (root / f"gtFine/{split}/{city}/{stem}_gtFine_polygons.json").write_text("{}")


def make_voc(root, line="/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png", folder="SegmentationAug"):
    splits = {"train_aug": ["2007_000032", "2008_000001"], "train": ["2007_000032"], "val": ["2007_000033"]}
    for name in ("2007_000032", "2008_000001", "2007_000033", "2009_999999"):
        write(root / f"JPEGImages/{name}.jpg")
        if name != "2009_999999":  # most images of VOC have no mask
            write(root / f"SegmentationClassAug/{name}.png", [0, 1, 20, 255, 255, 15])
    lists = root / "ImageSets" / folder
    lists.mkdir(parents=True, exist_ok=True)
    for split, names in splits.items():
        (lists / f"{split}.txt").write_text("".join(line.format(name) + "\n" for name in names))


def make_ade20k(root):
    for folder, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        write(root / f"images/{folder}/{name}.jpg")
        write(root / f"annotations/{folder}/{name}.png", [0, 1, 2, 150, 149, 13])
    (root / "objectInfo150.txt").write_text("")


def make_coco_stuff(root):
    for folder, name in (("train2017", "000000000009"), ("val2017", "000000000139")):
        write(root / f"images/{folder}/{name}.jpg")
        write(root / f"annotations/{folder}/{name}.png", [0, 11, 90, 91, 181, 255])


TREES = {
    "cityscapes": (make_cityscapes, ["aachen/aachen_000000_000019", "ulm/ulm_000000_000019"],
                   ["lindau/lindau_000000_000019"], [0, 1, 18, 255, 255, 255]),
    "voc": (make_voc, ["2007_000032", "2008_000001"], ["2007_000033"], [0, 1, 20, 255, 255, 15]),
    "ade20k": (make_ade20k, ["ADE_train_00000001"], ["ADE_val_00000001"], [255, 0, 1, 149, 148, 12]),
    "coco_stuff": (make_coco_stuff, ["000000000009"], ["000000000139"], [0, 11, 90, 91, 181, 255]),
}  # fmt: skip


@pytest.mark.parametrize("method", PUBLISHED)
@pytest.mark.parametrize("name", sorted(TREES))
def test_official_trees_open_with_the_recipes(method, name, tmp_path):
    make, train, val, classes = TREES[name]
    make(tmp_path)
    data = shipped(method, name, f"data.root={tmp_path}").data
    opened = {split: build_dataset(data, split) for split in ("train", "val")}
    assert [list(opened[split].names) for split in ("train", "val")] == [train, val]
    for dataset in opened.values():
        assert dataset.classes.num_classes == CLASSES[DATASETS.index(name)]
        assert [dataset[i].mask.flatten().tolist() for i in range(len(dataset))] == [classes] * len(dataset)


@pytest.mark.parametrize("folder", ["Segmentation", "SegmentationAug"])
@pytest.mark.parametrize("line", ["{0}", "{0}.jpg", "JPEGImages/{0}.jpg SegmentationClassAug/{0}.png"])
def test_lists_of_voc_in_other_forms(line, folder, tmp_path):
    make_voc(tmp_path, line, folder)
    assert build_dataset(shipped("scaleproto", "voc", f"data.root={tmp_path}").data, "val").names == ("2007_000033",)


@pytest.mark.parametrize("name", sorted(TREES))
def test_the_root_of_a_recipe_is_set_once(name, tmp_path, monkeypatch):
    """By a variable, or (where that is not set) by the user's file; lists of a stage lie there too."""
    variable = {"cityscapes": "CITYSCAPES", "voc": "VOC", "ade20k": "ADE20K", "coco_stuff": "COCO"}[name]
    make, train, _, _ = TREES[name]
    make(tmp_path / "data")
    monkeypatch.setenv("SEGPROTO_CONFIG", str(tmp_path / "data.yaml"))
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(
        DataError, match=rf"where {name} lies is not set: data.root=DIR, \${variable}, or '{name}: DIR'"
    ):
        build_dataset(shipped("scaleproto", name).data, "train")
    (tmp_path / "data.yaml").write_text(f"{name}: {tmp_path / 'data'}\n")
    config = shipped("scaleproto", name).data
    assert list(build_dataset(config, "train").names) == train
    assert list_folder(config) == tmp_path / "data"
    monkeypatch.setenv(variable, str(tmp_path / "data"))
    (tmp_path / "data.yaml").unlink()
    assert list(build_dataset(shipped("scaleproto", name).data, "train").names) == train


def test_lists_of_two_files_keep_subfolders_and_names_with_spaces(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("/pictures/a/one.jpg /masks/a/one.png\nmy dog.png\nb/two\none.jpg two.txt\n")
    assert read_list(path) == ["a/one", "my dog", "b/two", "one.jpg two.txt"]


@pytest.mark.parametrize("name", ["voc", "cityscapes"])
def test_a_written_recipe_finds_tables_and_lists_again(name, tmp_path, monkeypatch):
    """A run is resumed from its ``recipe.yaml``: names of tables and lists under data.root must stay what they are."""
    monkeypatch.chdir(tmp_path)
    make = TREES[name][0]
    make(tmp_path / "data")
    recipe = shipped("protoseg", name, f"data.root={tmp_path / 'data'}")
    again = validate_recipe(yaml.safe_load(dump_recipe(recipe)), METHODS["protoseg"].recipe)
    assert again == recipe
    assert build_dataset(again.data, "train").names == build_dataset(recipe.data, "train").names


def test_weights_files_may_be_named_by_a_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGPROTO_DATA", str(tmp_path))
    recipe = shipped("scaleproto", "camvid")
    assert recipe.encoder.weights == tmp_path / "weights/vit_tiny_patch16_224_in1k.safetensors"


def test_class_tables():
    tables = {name: read_classes(find_classes(Path(name), Path())).labels for name in TREES}
    city, voc, ade, coco = (tables[name].table for name in ("cityscapes", "voc", "ade20k", "coco_stuff"))
    ids = [value for value, index in tables["cityscapes"].lookup.items() if index != 255]
    assert sorted(ids) == [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
    assert sorted(tables["cityscapes"].lookup) == [*range(34), 255]
    assert (city.names[0], city.names[13], city.names[18]) == ("road", "car", "bicycle")
    assert (city.colours[0], city.colours[13], city.colours[18]) == ((128, 64, 128), (0, 0, 142), (119, 11, 32))
    assert [voc.colours[i] for i in (0, 1, 8, 15, 20)] == [  # the bits of the index, spread over the channels
        (0, 0, 0), (128, 0, 0), (64, 0, 0), (192, 128, 128), (0, 64, 128),
    ]  # fmt: skip
    assert list(voc.names[1:]) == sorted(voc.names[1:])
    assert tables["ade20k"].lookup == {0: 255, 255: 255} | {i + 1: i for i in range(150)}
    assert [ade.names[i] for i in (0, 12, 44, 65, 124, 149)] == [
        "wall", "person", "chest of drawers", "toilet", "microwave", "flag",
    ]  # fmt: skip
    assert tables["coco_stuff"].lookup == {255: 255} | {i: i for i in range(182)}
    assert [coco.names[i] for i in (0, 90, 91, 181)] == ["person", "hair brush", "banner", "wood"]
    unused = [coco.names[i] for i in (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)]
    assert unused == [
        "street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door", "blender",
        "hair brush",
    ]  # fmt: skip
    for table in (city, voc, ade, coco):
        assert len(set(table.names)) == len(set(table.colours)) == table.num_classes


@pytest.mark.precision
def test_a_class_without_a_pixel_is_refused_or_dropped(tmp_path):
    """COCO-Stuff's table has 11 classes that no image shows: their prototypes cannot be projected."""
    rng = np.random.default_rng(0)
    for i in range(3):
        for folder, array in (
            ("images", rng.integers(0, 256, (32, 32, 3))),
            ("labels", rng.integers(0, 2, (32, 32)) * 2),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / folder / f"{i}.png")
    (tmp_path / "classes.yaml").write_text("classes: [a, never, b]")
    steps = [f"stages.{stage}.steps=1" for stage in ("joint", "group_warmup", "group_joint")]
    tiny = [
        f"data.root={tmp_path}",
        "data.augment.crop=32",
        "encoder.name=unet",
        "encoder.width=2",
        "encoder.dim=4",
        "encoder.backbone=null",
        "encoder.layers=null",
        "encoder.frozen=false",
        "encoder.output_stride=4",
        "encoder.rates=[1,2]",
        "train.cache_features=false",
        "train.accelerator=cpu",
        "train.batch_size=2",
        *steps,
    ]
    with pytest.raises(DataError, match=r"class never .*stages\.project\.absent=drop"):
        segproto.train("scaleproto/folder", out=tmp_path / "refused", overrides=tiny, quiet=True)
    out = tmp_path / "dropped"
    segproto.train("scaleproto/folder", out=out, overrides=[*tiny, "stages.project.absent=drop"], quiet=True)
    result = json.loads((out / "stages/project/result.json").read_text())
    assert result["classes_without_prototypes"] == ["never"]
    model = segproto.load(out)
    assert set(model.head.bank.class_of.tolist()) == {0, 2}
    assert set(model.predict(tmp_path / "images/0.png").flatten().tolist()) <= {0, 1, 2}


ALL_STAGES = {  # what no shipped recipe has, or not all of it
    "nonparametric": ["stages.linear={steps: 1, lr: {neck: 1}}", "stages.seed.start=classifier"],
    "primaps": ["stages.stego.steps=1", "encoder.neck=codes", "train.cache_features=false"],
    "protoseg": ["stages.linear={steps: 1, lr: {neck: 1}}", "stages.forget.prototypes=[0]"],
    "scaleproto": ["stages.seed.start=features", "stages.forget.prototypes=[0]"],
}


@pytest.mark.parametrize(
    ("method", "name", "overrides"),
    [(*entry, []) for entry in SHIPPED] + [(method, "scenes", more) for method, more in ALL_STAGES.items()],
)
def test_every_stage_says_what_it_does(method: str, name: str, overrides: list[str]) -> None:
    words = [stage.words for stage in METHODS[method].stages(shipped(method, name, *overrides))]
    assert all(words)
    assert len(set(words)) == len(words)


@needs_data
@pytest.mark.data
def test_real_files_of_cityscapes_and_coco_stuff():
    ends = {"image_suffix": "_leftImg8bit", "label_suffix": "_gtFine_labelIds"}
    for folder, classes, options in (("cityscapes8", "cityscapes", ends), ("cocostuff21", "coco_stuff", {})):
        config = DataConfig(root=f"$SEGPROTO_DATA/{folder}", classes=classes, split={"val_fraction": 0.5}, **options)
        data = build_dataset(config, "val")
        sample = data[0]
        assert sample.image.shape[1:] == sample.mask.shape
        assert 0 < int((sample.mask == 255).sum()) < sample.mask.numel() // 2


@needs_data
@pytest.mark.data
def test_real_lists_of_voc():
    lists = Path(os.environ["SEGPROTO_DATA"]) / "voc12_lists"
    names = {split: read_list(lists / f"{split}.txt") for split in ("train_aug", "train", "val")}
    assert {split: len(actual) for split, actual in names.items()} == {"train_aug": 10582, "train": 1464, "val": 1449}
    assert set(names["train"]) < set(names["train_aug"])
    assert not set(names["train_aug"]) & set(names["val"])
