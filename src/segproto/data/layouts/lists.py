"""Splits by lists of names: ``train.txt`` and ``val.txt``, VOC's ``ImageSets/Segmentation``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from segproto.data.layouts.finding import Item
from segproto.data.layouts.listing import Listing
from segproto.data.layouts.words import TRAIN, split_of
from segproto.data.pairs import listed_names

FOLDERS = ("", "ImageSets/Segmentation", "ImageSets", "splits", "split", "lists")


def list_files_of(listing: Listing) -> dict[str, str]:
    """Split to the file that lists its names, of the first folder that has any."""
    for folder in FOLDERS:
        placed: dict[str, str] = {}
        for name in listing.ending(".txt"):
            path = PurePosixPath(name)
            split = split_of(path.stem)
            parent = "" if str(path.parent) == "." else str(path.parent)
            if split and (parent == folder or (folder and parent.endswith(f"/{folder}"))):
                placed.setdefault(split, name)
        if placed:
            return placed
    return {}


def split_by_lists(listing: Listing, items: Sequence[Item]) -> list[Item]:
    """Items with the split that lists tell, unless folders told one; a list of other things is no list of names."""
    items = list(items)
    if any(item.split for item in items):
        return items
    listed: dict[str, tuple[str, str]] = {}
    for split, name in list_files_of(listing).items():
        names = listed_names(listing.text(name))
        known = {key for item in items for key in (item.name, item.name.rpartition("/")[2], item.image.stem)}
        if names and sum(entry in known for entry in names) * 2 >= len(names):
            listed |= {entry: (split, PurePosixPath(name).name) for entry in names}
    if not listed:
        return items
    placed = []
    for item in items:
        keys = (item.name, item.name.rpartition("/")[2], item.image.stem)
        places = [listed[key] for key in keys if key in listed]
        placed.append(replace(item, split=places[0][0], folder=places[0][1]) if places else item)
    if TRAIN in {item.split for item in placed}:
        return [item for item in placed if item.split is not None]
    return placed
