"""What a user's folder is taken for, in words: for ``data verify``, ``data init`` and the first lines of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from segproto.data.classes import find_classes, read_classes, usual_classes
from segproto.data.folder import check_folder, open_folder, split_names, split_pairs, split_rule
from segproto.data.kind import DataKind
from segproto.data.layouts.finding import FRACTION, Finding, Item
from segproto.data.layouts.listing import list_files
from segproto.data.layouts.names import read_names
from segproto.data.layouts.recognise import recognise
from segproto.data.pairs import Pairs
from segproto.data.roots import data_root
from segproto.data.split import SplitConfig

if TYPE_CHECKING:
    from segproto.data.config import DataConfig


def look_at_folder(config: DataConfig) -> Finding:
    """What a folder or zip archive of the kind ``folder`` is taken for, whether recognised or as the settings say.

    Raises:
        DataError: nothing that could be read, or more than one way to.
    """
    root = data_root(config, archives=True)
    finding = recognise(config, root)
    if finding is not None:
        given = given_split(config, root)
        return finding if given is None else by_rule(finding, given, _list_folders(config, root))
    return _as_set(config, root)


def _list_folders(config: DataConfig, root: Path) -> tuple[Path, Path]:
    """Where lists of names are looked for: beside the ``classes.yaml`` (or shipped table), then in the root."""
    there = config.classes is not None or usual_classes(root).is_file()
    return (find_classes(config.classes, root).parent if there else root, root)


def given_split(config: DataConfig, root: Path) -> SplitConfig | None:
    """The rule that a setting or the ``classes.yaml`` gives, if there is one."""
    given = config.split
    if given is None and (config.classes is not None or usual_classes(root).is_file()):
        given = read_classes(find_classes(config.classes, root), {}).split
    return given if given is not None and given.has_rule else None


def by_rule(finding: Finding, rule: SplitConfig, list_folders: tuple[Path, ...]) -> Finding:
    """The finding with the splits of a rule in place of the layout's own."""
    if rule.train_folder is not None:
        own = {rule.train_folder: "train", rule.val_folder: "val"}
        kept = [replace(item, split=own[item.folder]) for item in finding.items if item.folder in own]
        return replace(finding, items=kept)
    if rule.val_fraction is not None:
        without = [replace(item, split=None, folder=None) for item in finding.items]
        return replace(finding, items=without, drawn=rule.val_fraction)
    names = [item.name for item in finding.items]
    of_name = {name: split for split in ("train", "val") for name in split_names(rule, names, split, list_folders)}
    items = [replace(i, split=of_name[i.name], folder=None) for i in finding.items if i.name in of_name]
    return replace(finding, items=items)


def _as_set(config: DataConfig, root: Path) -> Finding:
    rule = split_rule(config, root, given_split(config, root))
    items: list[Item] = []
    for split in ("train", "val"):
        pairs = split_pairs(config, root, rule, split)
        names = split_names(rule, list(pairs.images), split, _list_folders(config, root))
        known_split = None if rule.val_fraction is not None else split
        folder = rule.train_folder if split == "train" else rule.val_folder
        items += [_item(pairs, name, known_split, folder) for name in names if name in pairs.images]
    class_names, names_from = read_names(list_files(root))
    words = f"{config.images} with {config.labels}"
    settings = {"data.images": config.images, "data.labels": str(config.labels)}
    suffixes = {"data.image_suffix": config.image_suffix, "data.label_suffix": config.label_suffix}
    settings |= {key: suffix for key, suffix in suffixes.items() if suffix}
    drawn = rule.val_fraction or FRACTION
    return Finding("folder", words, items, settings, names=class_names, names_from=names_from, drawn=drawn)


def _item(pairs: Pairs, name: str, split: str | None, folder: str | None) -> Item:
    return Item(name, pairs.images[name], pairs.masks.get(name), split, folder)


def say_folder(config: DataConfig) -> list[str]:
    """The line that a run begins with."""
    if config.labels is None:
        return []
    finding = look_at_folder(config)
    return [f"data: {finding.line()}", *(f"data: {note}" for note in finding.notes)]


FOLDER = DataKind(
    name="folder",
    title="your own images and masks, in any usual layout, described by a classes.yaml",
    open=open_folder,
    reads=("layout", "classes", "split", "parts", "part_maps", "bands"),
    masks="optional",
    check=check_folder,
    own=True,
    says=say_folder,
)
