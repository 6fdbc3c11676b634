"""A user's own images and masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from segproto.data.archives import file_at, is_folder
from segproto.data.base import SegmentationDataset
from segproto.data.classes import Classes, find_classes, read_classes
from segproto.data.coarse import refuse_names
from segproto.data.layouts.finding import FRACTION, Finding
from segproto.data.layouts.recognise import recognise, suggestion
from segproto.data.layouts.words import SPLIT_WORDS, TEST, TRAIN, VAL
from segproto.data.layouts.words import split_of as split_of_word
from segproto.data.pairs import PairDataset, Pairs, find_pairs, find_part_maps, named_by, read_list
from segproto.data.parts import PartTable, read_parts
from segproto.data.roots import data_root
from segproto.data.split import SplitConfig, found_in
from segproto.data.subset import keep_only
from segproto.data.tiff_pages import by_page, pages_in
from segproto.data.unlabelled import ImageFolder
from segproto.errors import DataError

if TYPE_CHECKING:
    from segproto.data.config import DataConfig


def open_folder(config: DataConfig, split: str) -> SegmentationDataset:
    """The images and masks of one split of a folder with a ``classes.yaml``; void masks if it is to have none.

    Raises:
        DataError: in one line: what is missing or contradictory.
    """
    root = data_root(config, archives=True)
    if config.labels is None:
        return open_unmasked(config, root, split)
    if split == "val":
        refuse_coarse(config)
    finding = recognise(config, root)
    classes = read_classes(find_classes(config.classes, root), None if finding is None else finding.numbers)
    pairs, names = split_of_folder(config, root, classes, finding, split)
    if pairs.doubles:
        raise DataError(pairs.doubles[0])
    if config.pages == "all":
        names, pairs.images, pairs.masks = by_page(names, pairs.images, pairs.masks)
    elif config.pages is not None:
        pairs.masks = {name: pages_in(mask, config.pages)[0] for name, mask in pairs.masks.items()}
    rule = split_rule(config, root, classes.split)
    parts = None if config.parts is None else split_parts(config, root, rule, split, classes)
    return PairDataset(split, names, pairs, classes.labels, parts, config.pixel_rule)


def split_of_folder(
    config: DataConfig, root: Path, classes: Classes, finding: Finding | None, split: str
) -> tuple[Pairs, list[str]]:
    """The files that a split is chosen from, and its names.

    Raises:
        DataError: in one line: what is missing or contradictory.
    """
    places = (classes.path.parent, root)
    if finding is not None:
        return split_of_finding(finding, config.split or classes.split, split, places)
    rule = split_rule(config, root, classes.split)
    pairs = split_pairs(config, root, rule, split)
    if pairs.masks.keys().isdisjoint(pairs.images) and not pairs.doubles:
        first, count = next(iter(pairs.images)), len(pairs.images)
        raise DataError(f"{pairs.without_mask(first)}; none of {count} images has one{suggestion(root)}")
    return pairs, split_names(rule, list(pairs.images), split, places)


def split_of_finding(
    finding: Finding, given: SplitConfig | None, split: str, places: tuple[Path, ...]
) -> tuple[Pairs, list[str]]:
    """The same of a recognised layout: a rule that is given decides, else what the layout tells, else a fraction.

    Raises:
        DataError: no image is left, or the rule names a folder that no image lies in.
    """
    rule = given if given is not None and given.has_rule else None
    if rule is not None and rule.train_folder is not None:
        own = rule.train_folder if split == "train" else rule.val_folder
        items = [item for item in finding.items if item.folder == own]
        if not items:
            folders = ", ".join(dict.fromkeys(item.folder for item in finding.items if item.folder)) or "none"
            raise DataError(f"data.split: no image lies in a folder {own!r}; folders of splits here: {folders}")
        names = [item.name for item in items]
    elif rule is None and finding.has_val:
        items = finding.of(split) or [item for item in finding.items if item.split is None]
        names = [item.name for item in items]
    else:
        items = list(finding.items)
        if rule is None:
            items = finding.of("train") or [item for item in items if item.split != "test"]
            rule = SplitConfig(val_fraction=FRACTION, seed=given.seed if given is not None else 0)
        names = split_names(rule, [item.name for item in items], split, places)
    # members of archives and drawn masks stand where paths are expected
    images: dict[str, Any] = {item.name: item.image for item in items}
    masks: dict[str, Any] = {item.name: item.mask for item in items if item.mask is not None}
    return Pairs(images, masks), names


def open_unmasked(config: DataConfig, root: Path, split: str) -> SegmentationDataset:
    """The images of one split with void masks: all of them if there is no rule for the split, as none can be scored."""
    classes = read_classes(find_classes(config.classes, root))
    own_rule, rule = config.split or classes.split, split_rule(config, root, classes.split)
    images = ImageFolder(root / split_folder(config.images, rule, split), split, config.pixel_rule)
    images.classes = classes.labels.table
    if rule.val_fraction is not None and (own_rule is None or not own_rule.has_rule):
        return images
    names = split_names(rule, list(images.names), split, (classes.path.parent, root))
    index_of = {name: index for index, name in enumerate(images.names)}
    if unknown := [name for name in names if name not in index_of]:
        raise DataError(f"{split}: no image file for {unknown[0]!r} in {root / config.images}")
    return keep_only(images, [index_of[name] for name in names])


def split_parts(
    config: DataConfig, root: Path, rule: SplitConfig, split: str, classes: Classes
) -> tuple[PartTable, dict[str, Path]]:
    """The part table, and the part maps of a split by image name.

    Raises:
        DataError: in one line: what is missing or does not fit.
    """
    assert config.parts is not None
    table = read_parts(config.parts, classes.labels.table.names)
    folder = split_folder(config.part_maps or table.maps, rule, split)
    suffix = table.suffix if config.part_suffix is None else config.part_suffix
    return table, find_part_maps(root / folder, suffix)


def split_folder(folder: str, rule: SplitConfig, split: str) -> str:
    """A folder under the root as the split has it: with the split's own folder in it if the split is by folders."""
    own = rule.train_folder if split == "train" else rule.val_folder
    if own is None:
        return folder
    if "{split}" in folder:
        return folder.replace("{split}", own)
    above, _, last = folder.rpartition("/")
    return str(PurePosixPath(above, own, last)) if "*" in last else f"{folder}/{own}"


def refuse_coarse(config: DataConfig) -> None:
    """Refuses to validate on coarse polygons, which leave boundaries out and add some 5 points of mIoU.

    Raises:
        DataError: the labels are Cityscapes' coarse ones, and ``data.coarse`` does not allow them.
    """
    if not config.coarse:
        settings = f"data.labels={config.labels}, data.label_suffix={config.label_suffix}"
        refuse_names(f"{config.root}/{config.labels}/{config.label_suffix}", settings, "set data.coarse=true")


def split_rule(config: DataConfig, root: Path, of_classes: SplitConfig | None) -> SplitConfig:
    """The split to use: the recipe's, else the ``classes.yaml``'s, else what the folder shows (see ``SplitConfig``)."""
    own_rule = config.split or of_classes
    if own_rule is not None and own_rule.has_rule:
        return own_rule
    seed = own_rule.seed if own_rule is not None else 0
    folders = {
        name: _usual_word(name, lambda word: is_folder(_split_place(config, root, word))) for name in (TRAIN, VAL)
    }
    if all(folders.values()):
        return SplitConfig(train_folder=folders[TRAIN], val_folder=folders[VAL])
    if "{split}" in config.images:
        return SplitConfig(train_folder=folders[TRAIN] or TRAIN, val_folder=folders[VAL] or VAL)
    lists = {name: _usual_word(name, lambda word: file_at(root / f"{word}.txt") is not None) for name in (TRAIN, VAL)}
    if any(lists.values()):  # one list alone: the other split is all the rest
        lists_of_split = {f"{name}_list": root / f"{word}.txt" for name, word in lists.items() if word is not None}
        return SplitConfig.model_validate(lists_of_split)
    return SplitConfig(val_fraction=FRACTION, seed=seed)


def _usual_word(split: str, there: Callable[[str], bool]) -> str | None:
    """The first of a split's usual names that is there: ``val``, ``valid``, ``validation`` ..."""
    words = (name for word in SPLIT_WORDS[split] for name in (word, word.capitalize()))
    return next((word for word in words if there(word)), None)


def _split_place(config: DataConfig, root: Path, word: str) -> Path:
    """The folder of images that a split would have."""
    folder, _ = named_by(root / split_folder(config.images, SplitConfig(train_folder=word, val_folder=word), TRAIN), "")
    return folder


def split_pairs(config: DataConfig, root: Path, rule: SplitConfig, split: str) -> Pairs:
    """The files a split is chosen from: all of them, or those of its folder if the split is by folder.

    Raises:
        DataError: there are to be no masks, or a folder is missing.
    """
    if config.labels is None:
        raise DataError("data.labels = null: there are no masks to pair with the images")
    images, labels = (split_folder(folder, rule, split) for folder in (config.images, config.labels))
    pairs = find_pairs(root / images, root / labels, config.image_suffix, config.label_suffix)
    if rule.val_fraction is not None:
        _keep_training(pairs)
    return pairs


def _keep_training(pairs: Pairs) -> None:
    """Where a fraction is drawn and there is a folder of training images: leaves out that of test images."""
    tops = {name.partition("/")[0] for name in pairs.images}
    if any(split_of_word(top) == TRAIN for top in tops):
        for files in (pairs.images, pairs.masks):
            for name in [name for name in files if split_of_word(name.partition("/")[0]) == TEST]:
                del files[name]


def split_names(rule: SplitConfig, names: list[str], split: str, list_folders: tuple[Path, ...]) -> list[str]:
    """The names of one split, in name order (list order for a split by lists).

    Args:
        rule: how to split.
        names: all image names.
        split: ``train`` or ``val``.
        list_folders: folders to look for list files in, in order.

    Raises:
        DataError: if a list is missing, overlaps the other one or the split is empty.
    """
    if rule.train_folder is not None:
        chosen = names
    elif rule.train_list is not None or rule.val_list is not None:
        chosen = _by_lists(rule, names, split, list_folders)
    else:
        chosen = [name for name, val in zip(names, _is_val(rule, names), strict=True) if val == (split == "val")]
    if not chosen:
        how = rule.model_dump(exclude_none=True, exclude={"seed"}, mode="json")
        raise DataError(f"the {split} split is empty: {how} leaves none of {len(names)} images; change data.split")
    return chosen


def _by_lists(rule: SplitConfig, names: list[str], split: str, list_folders: tuple[Path, ...]) -> list[str]:
    lists = {
        key: read_list(next((p / path for p in list_folders if file_at(p / path) is not None), list_folders[-1] / path))
        for key, path in (("train", rule.train_list), ("val", rule.val_list))
        if path is not None
    }
    both = set(lists.get("train", ())) & set(lists.get("val", ()))
    if both:
        raise DataError(f"{rule.train_list} and {rule.val_list} both list {min(both)!r} ({len(both)} names in all)")
    if split in lists:
        return lists[split]
    (listed,) = lists.values()
    if unknown := set(listed) - set(names):
        raise DataError(f"{rule.train_list or rule.val_list} lists {min(unknown)!r}, which is no image of data.images")
    return [name for name in names if name not in set(listed)]


def _is_val(rule: SplitConfig, names: list[str]) -> list[bool]:
    if rule.val_pattern is not None:
        return found_in(rule.val_pattern, names)
    fraction = rule.val_fraction or FRACTION
    count = min(max(round(fraction * len(names)), 1), len(names) - 1) if len(names) > 1 else 0
    drawn = np.random.Generator(np.random.PCG64(rule.seed)).permutation(len(names))[:count]
    val = set(drawn.tolist())
    return [i in val for i in range(len(names))]


def check_folder(config: DataConfig, split: str) -> tuple[SegmentationDataset, list[str]]:
    """As :func:`open_folder`, but also a line per missing partner or double; the set holds the complete pairs."""
    root = data_root(config, archives=True)
    finding = recognise(config, root)
    classes = read_classes(find_classes(config.classes, root), None if finding is None else finding.numbers)
    pairs, names = split_of_folder(config, root, classes, finding, split)
    if config.pages == "all":
        names, pairs.images, pairs.masks = by_page(names, pairs.images, pairs.masks)
    elif config.pages is not None:
        pairs.masks = {name: pages_in(mask, config.pages)[0] for name, mask in pairs.masks.items()}
    complete = [name for name in names if name in pairs.images and name in pairs.masks]
    problems = partner_problems(pairs, names)
    if finding is not None:
        problems += [f"{file}: has no image of its name; add it, or remove the mask" for file in finding.loose]
    return PairDataset(split, complete, pairs, classes.labels, rule=config.pixel_rule), problems


def partner_problems(pairs: Pairs, names: list[str]) -> list[str]:
    """A line for each image without a mask, each mask without an image, and each listed name without an image."""
    return [
        *pairs.doubles,
        *(pairs.without_mask(name) for name in names if name in pairs.images and name not in pairs.masks),
        *(
            f"{path}: has no image of its name; add it, or remove the mask"
            for name, path in pairs.masks.items()
            if name not in pairs.images
        ),
        *(
            f"{name!r} is listed but there is no such image; add it, or take it off the list"
            for name in names
            if name not in pairs.images
        ),
    ]
