"""Layouts, label tables and splits of the data sets in :data:`PUBLISHED`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

from segproto.data.archives import Member, Tree
from segproto.data.base import ClassTable
from segproto.data.classes import EXAMPLES, read_classes
from segproto.data.crops import potsdam_tiles
from segproto.data.images import read_objects
from segproto.data.labels import LabelMap
from segproto.data.palette import default_colours
from segproto.data.published import LONG_NAMES, Archive, Found, Published, PublishedParts, published_kind
from segproto.data.suffixes import IMAGE_SUFFIXES
from segproto.errors import DataError
from segproto.files.reading import read_text
from segproto.prototypes.labels import IGNORE_INDEX

COCO_UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
CITYSCAPES_27 = (
    "road, sidewalk, parking, rail track, building, wall, fence, guard rail, bridge, tunnel, pole, polegroup, "
    "traffic light, traffic sign, vegetation, terrain, sky, person, rider, car, truck, bus, caravan, trailer, train, "
    "motorcycle, bicycle"
)
COCO_27 = (  # name: fine classes (Caesar et al. 2018, grouped as by Ji et al. 2019)
    "electronic: 71-76; appliance: 77-82; food (thing): 51-60; furniture (thing): 61-70; indoor: 83-90; "
    "kitchen: 43-50; accessory: 25-32; animal: 15-24; outdoor: 9-14; person: 0-0; sports: 33-42; vehicle: 1-8; "
    "ceiling: 101-102; "
    "floor: 100-100 113-117; food (stuff): 120-121 152-152 169-169; "
    "furniture (stuff): 97-97 106-107 109-109 111-111 122-122 129-129 132-132 155-155 160-160 164-164; "
    "raw material: 99-99 131-131 138-138 142-142; "
    "textile: 91-92 103-104 108-108 130-130 136-136 140-140 151-151 166-167; wall: 170-176; window: 179-180; "
    "building: 94-95 127-127 150-150 157-157 165-165; "
    "ground: 110-110 124-125 135-135 139-139 143-144 146-146 148-148 153-153 158-158; "
    "plant: 93-93 96-96 118-118 123-123 128-128 133-133 141-141 162-162 168-168; sky: 105-105 156-156; "
    "solid: 126-126 134-134 149-149 159-159 161-161 181-181; structural: 98-98 112-112 137-137 145-145 163-163; "
    "water: 119-119 147-147 154-154 177-178"
)


def shipped(name: str) -> LabelMap:
    """A shipped class table."""
    return read_classes(EXAMPLES / f"{name}.yaml").labels


def table(names: list[str]) -> ClassTable:
    """Names with the default colours."""
    return ClassTable(tuple(names), default_colours(len(names)))


def ade20k_full() -> LabelMap:
    """The 847 classes of the full vocabulary, by frequency; those from 255 on move up by one, as 255 is void."""
    text = (EXAMPLES / "ade20k_full.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    entries = [entry.strip().split(" ", 1) for line in lines for entry in line.split(";")]
    entries.insert(IGNORE_INDEX, ["0", "(void)"])
    lookup = dict.fromkeys(range(26 * 256), IGNORE_INDEX)
    lookup |= {int(number): c for c, (number, _) in enumerate(entries)}
    return LabelMap(table([name for _, name in entries]), lookup, reader=read_objects)


def cityscapes_27() -> LabelMap:
    """Label ids 7..33; all else is void."""
    lookup = {value: value - 7 if 7 <= value <= 33 else IGNORE_INDEX for value in range(256)}
    return LabelMap(table(CITYSCAPES_27.split(", ")), lookup)


def coco_27() -> LabelMap:
    """The 27 groups of COCO-Stuff's 182 fine classes."""
    lookup, names = {IGNORE_INDEX: IGNORE_INDEX}, []
    for group, entry in enumerate(COCO_27.split("; ")):
        name, _, ranges = entry.partition(": ")
        names.append(name)
        for part in ranges.split():
            low, high = (int(number) for number in part.split("-"))
            lookup |= dict.fromkeys(range(low, high + 1), group)
    return LabelMap(table(names), lookup)


def coco_171() -> LabelMap:
    """The 171 classes that were annotated, without the gaps of the stored numbers."""
    full = shipped("coco_stuff")
    used = [c for c in range(182) if c not in COCO_UNUSED]
    lookup = {value: used.index(c) if c in used else IGNORE_INDEX for value, c in full.lookup.items()}
    names = tuple(full.table.names[c] for c in used)
    return LabelMap(ClassTable(names, default_colours(len(names))), lookup)


def coco_10k() -> LabelMap:
    """The 10k set stores the 182 numbers plus one, 0 for unlabelled."""
    full = coco_171()
    lookup = {0: IGNORE_INDEX, **{value + 1: c for value, c in full.lookup.items() if value < 182}}
    return LabelMap(full.table, lookup)


def potsdam_3() -> LabelMap:
    """Roads and cars, buildings and clutter, vegetation and trees."""
    lookup = dict.fromkeys(range(256), IGNORE_INDEX) | {0: 0, 4: 0, 1: 1, 5: 1, 2: 2, 3: 2}
    return LabelMap(table(["road and car", "building and clutter", "vegetation and tree"]), lookup)


def find_cityscapes(tree: Tree, split: str, variant: str) -> Found:
    """leftImg8bit and gtFine, names ``CITY/CITY_SEQ_FRAME``."""
    images = tree.files(f"leftImg8bit/{split}", "_leftImg8bit.png")
    masks = tree.files(f"gtFine/{split}", "_gtFine_labelIds.png")
    if images and not masks:
        coarse = tree.files(f"gtFine/{split}", "_gtCoarse_labelIds.png") or tree.files(f"gtCoarse/{split}", ".png")
        hint = "get gtFine_trainvaltest"
        if coarse:
            hint = "only coarse labels are; scores against these are far too high; data.coarse=true reads them"
        raise DataError(f"{tree.root}: no gtFine labels of {split} there ({hint})")
    return Found(images, masks)


def find_cityscapes_coarse(tree: Tree, split: str, variant: str) -> Found:
    """leftImg8bit and gtCoarse."""
    images = tree.files(f"leftImg8bit/{split}", "_leftImg8bit.png")
    return Found(images, tree.files(f"gtCoarse/{split}", "_gtCoarse_labelIds.png"))


def find_voc(tree: Tree, split: str, variant: str) -> Found:
    """VOC 2012 with SBD's labels as PNG (``SegmentationClassAug``) or as SBD's own MATLAB files."""
    images = tree.files("JPEGImages", ".jpg")
    if not images:
        return Found({}, {})
    list_folders = ("ImageSets/Segmentation", "ImageSets/SegmentationAug")
    lists = {name: read_names(tree, *(f"{folder}/{name}.txt" for folder in list_folders)) for name in ("train", "val")}
    augmented = tree.files("SegmentationClassAug", ".png")
    masks = {**augmented, **tree.files("SegmentationClass", ".png")}
    if split == "val" or variant == "train":
        return Found(images, masks, lists[split])
    augmented = augmented or tree.first_files(("dataset/cls", "benchmark_RELEASE/dataset/cls"), ".mat")
    held_out = set(lists["val"])
    names = sorted({*lists["train"], *(name for name in augmented if name not in held_out and name in images)})
    return Found(images, {**augmented, **masks}, names)


def find_ade20k(tree: Tree, split: str, variant: str) -> Found:
    """images/ and annotations/ of the scene parsing release."""
    folder = LONG_NAMES[split]
    return Found(tree.files(f"images/{folder}", ".jpg"), tree.files(f"annotations/{folder}", ".png"))


def find_ade20k_full(tree: Tree, split: str, variant: str) -> Found:
    """The full release of 2021 (or 2016): pictures with ``_seg.png`` beside them, in folders by scene."""
    folder = LONG_NAMES[split]
    for path in (f"images/ADE/{folder}", f"images/{folder}"):
        images = tree.files(path, ".jpg")
        if images:
            return Found(images, tree.files(path, "_seg.png"))
    return Found({}, {})


def find_coco(tree: Tree, split: str, variant: str) -> Found:
    """Photos of 2017 with stuffthingmaps; 27 groups by the curated lists; or the 10k set."""
    if variant == "10k":
        images = tree.files("images", ".jpg")
        if not images:
            return Found({}, {})
        listed = read_names(tree, f"imageLists/{'train' if split == 'train' else 'test'}.txt")
        return Found(images, tree.files("annotations", ".mat"), listed)
    folder = f"{split}2017"
    images = tree.first_files((f"images/{folder}", folder), ".jpg")
    if not images:
        return Found({}, {})
    masks = tree.first_files((f"annotations/{folder}", f"stuffthingmaps/{folder}", folder), ".png")
    if variant != "27":
        return Found(images, masks)
    hint = "; it comes with the archive of PiCIE and STEGO (curated)"
    return Found(images, masks, read_names(tree, f"curated/{folder}/Coco164kFull_Stuff_Coarse_7.txt", hint=hint))


def find_potsdam(tree: Tree, split: str, variant: str) -> Found:
    """200x200 tiles in MATLAB files, or cut from the original TIFF files."""
    images = tree.files("imgs", ".mat")
    if not images:
        return Found(*potsdam_tiles(tree, split))
    names = read_names(tree, "labelled_train.txt" if split == "train" else "labelled_test.txt")
    return Found(images, tree.files("gt", ".mat"), names)


def read_names(tree: Tree, *paths: str, hint: str = "") -> list[str]:
    """The names in a list of the data set, wherever above the root its folder starts.

    A line is a name, or an image file with or without others after it.

    Args:
        tree: where to look.
        paths: of the list; the first that is there is read.
        hint: where to get it.

    Raises:
        DataError: there is no such list.
    """
    lists: list[Path | Member] = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        lists += [file for before, file in tree.files(folder, name).items() if not before.rpartition("/")[2]]
    file = lists[0] if lists else tree.root / paths[0]
    try:
        text = file.open_binary().read().decode() if isinstance(file, Member) else read_text(file)
    except (DataError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: the list of image names cannot be read ({error}){hint}") from None
    files = [PurePosixPath(line.split()[0]) for line in text.splitlines() if line.strip()]
    return [file.stem if file.suffix in IMAGE_SUFFIXES else file.name for file in files]


def _maps(**makers: Callable[[], LabelMap]) -> dict[str, Callable[[], LabelMap]]:
    return {name.lstrip("_"): make for name, make in makers.items()}


_CITY = (
    Archive("leftImg8bit_trainvaltest.zip", "leftImg8bit", "sha1:2c0b77ce9933cc635adda307fbba5566f5d9d404"),
    Archive("gtFine_trainvaltest.zip", "gtFine", "sha1:99f532cb1af174f5fcc4c5bc8feea8c66246ddbc"),
    Archive("gtFinePanopticParts_trainval.zip", "gtFinePanopticParts", optional=True),
)
_VOC = (
    Archive("VOCtrainval_11-May-2012.tar", "JPEGImages", "md5:6cd6e144f989b92b3379bac3b3de84fd"),
    Archive("benchmark.tgz", "benchmark_RELEASE", "md5:82b4d87ceb2ed10f6038a1cba92111cb", optional=True),
    Archive("VOC2012test.tar", "JPEGImages", optional=True),
)
_ADE = (
    Archive("ADEChallengeData2016.zip", "annotations", "sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7"),
    Archive("release_test.zip", "testing", "sha1:e05747892219d10e9243933371a497e905a4860c", optional=True),
)
_COCO = (
    Archive("train2017.zip", "images/train2017", into="images"),
    Archive("val2017.zip", "images/val2017", into="images"),
    Archive("stuffthingmaps_trainval2017.zip", "annotations", into="annotations"),
    Archive("cocostuff-10k-v1.1.zip", "imageLists", optional=True),
)
_CITY_PARTS = PublishedParts(
    "cityscapes_parts", ("gtFinePanopticParts/{split}", "gtFinePanopticParts_trainval/gtFinePanopticParts/{split}"),
    "_gtFinePanopticParts.tif", 500, 5,
)  # fmt: skip
_VOC_PARTS = PublishedParts(
    "pascal_parts", ("labels/{split}", "labels/{long}", "pascal_panoptic_parts/{long}", "{long}"), ".tif", 925, 16
)
_POTSDAM = (
    Archive("potsdam.zip", "imgs", optional=True),
    Archive("4_Ortho_RGBIR.zip", "4_Ortho_RGBIR", optional=True),
    Archive("2_Ortho_RGB.zip", "2_Ortho_RGB", optional=True),
    Archive("5_Labels_for_participants.zip", "5_Labels_for_participants", optional=True),
    Archive("5_Labels_all.zip", "5_Labels_all", optional=True),
)
PUBLISHED: dict[str, Published] = {
    known.name: known
    for known in (
        Published(
            "cityscapes",
            "Cityscapes, 19 classes of its evaluation or 27 as in work without labels",
            "CITYSCAPES",
            "https://www.cityscapes-dataset.com/downloads/",
            "registration; research only, no redistribution",
            _CITY,
            _maps(_19=partial(shipped, "cityscapes"), _27=cityscapes_27),
            {"train": 2975, "val": 500},
            find_cityscapes,
            find_coarse=find_cityscapes_coarse,
            parts=_CITY_PARTS,
        ),
        Published(
            "voc",
            "Pascal VOC 2012, 21 classes, with SBD's training labels (train_aug) or without (train)",
            "VOC",
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
            "photos under Flickr's terms",
            _VOC,
            _maps(train_aug=partial(shipped, "voc"), train=partial(shipped, "voc")),
            {"train": 10582, "train/train": 1464, "val": 1449},
            find_voc,
            "VOCdevkit/VOC2012",
            parts=_VOC_PARTS,
        ),
        Published(
            "ade20k",
            "ADE20K scene parsing, 150 classes",
            "ADE20K",
            "http://sceneparsing.csail.mit.edu/",
            "research and teaching only",
            _ADE,
            _maps(_150=partial(shipped, "ade20k")),
            {"train": 20210, "val": 2000},
            find_ade20k,
            "ADEChallengeData2016",
        ),
        Published(
            "ade20k_full",
            "ADE20K, the full release with its 847 most frequent classes",
            "ADE20K_FULL",
            "https://ade20k.csail.mit.edu/",
            "registration; research and teaching only",
            (Archive("ADE20K_2021_17_01.zip", "images/ADE"),),
            _maps(_847=ade20k_full),
            {"train": 25574, "val": 2000},
            find_ade20k_full,
            "ADE20K_2021_17_01",
            unused={"847": (IGNORE_INDEX,)},
        ),
        Published(
            "coco_stuff",
            "COCO-Stuff 164k, 182 outputs, 171 classes or 27 groups; and the 10k set",
            "COCO",
            "https://github.com/nightrome/cocostuff",
            "annotations CC BY 4.0; photos under Flickr's terms",
            _COCO,
            _maps(_182=partial(shipped, "coco_stuff"), _171=coco_171, _27=coco_27, _10k=coco_10k),
            {"train": 118287, "val": 5000, "27/train": 49629, "27/val": 2175, "10k/train": 9000, "10k/val": 1000},
            find_coco,
            unused={"182": COCO_UNUSED},
        ),
        Published(
            "potsdam",
            "Potsdam-3: aerial tiles of 200x200, 3 classes, as in work without labels; or the original TIFFs",
            "POTSDAM",
            "https://www.isprs.org/resources/datasets/benchmarks/UrbanSemLab/2d-sem-label-potsdam.aspx",
            "ISPRS: research only, no redistribution",
            _POTSDAM,
            _maps(_3=potsdam_3),
            {"train": 4545, "val": 855},
            find_potsdam,
            "potsdam",
        ),
    )
}
PUBLISHED_KINDS = tuple(published_kind(known) for known in PUBLISHED.values())
