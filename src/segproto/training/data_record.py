"""What the data of a run were when it began, so that a resumed run goes on with the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from segproto.data.base import SegmentationDataset, stamp_of
from segproto.errors import DataError
from segproto.files import write_json
from segproto.files.documents import read_checked
from segproto.training.recipe import Recipe

NAME = "data.json"
ELSEWHERE = ("data", "train", "encoder")  # sections whose files are the images themselves, or read at the start alone


class SplitRecord(BaseModel):
    """One split.

    Attributes:
        fingerprint: of the data set, which also depends on how its masks are read.
        images: name to sizes and dates of its files.
    """

    model_config = ConfigDict(extra="forbid")

    fingerprint: str
    images: dict[str, str]

    @classmethod
    def of(cls, dataset: SegmentationDataset) -> SplitRecord:
        stamps = {name: dataset.stamp(index) for index, name in enumerate(dataset.names)}
        return cls(fingerprint=dataset.fingerprint, images=stamps)


class DataRecord(BaseModel):
    """``data.json`` of a run.

    Attributes:
        classes: names, in order.
        train: training images.
        val: validation images, if there are any.
        files: other files that the recipe names (tags, lists of images), by setting: sizes and dates.
    """

    model_config = ConfigDict(extra="forbid")

    version: int = 1
    classes: list[str]
    train: SplitRecord
    val: SplitRecord | None
    files: dict[str, str]

    @classmethod
    def of(cls, recipe: Recipe, train: SegmentationDataset, val: SegmentationDataset | None) -> DataRecord:
        files = {key: stamp_of(path) for key, path in named_files(recipe)}
        splits = {"train": SplitRecord.of(train), "val": None if val is None else SplitRecord.of(val)}
        return cls(classes=list(train.classes.names), files=files, **splits)


def named_files(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    """Files that stages read, by dotted setting."""

    def below(value: Any, key: str) -> Iterator[tuple[str, Path]]:
        if isinstance(value, Path) and value.is_file():
            yield key, value
        elif isinstance(value, Mapping):
            for name, item in value.items():
                yield from below(item, f"{key}.{name}" if key else name)

    yield from below(recipe.model_dump(exclude=set(ELSEWHERE)), "")


def keep_record(out: Path, now: DataRecord, *, changed: bool = False) -> None:
    """Writes the record of a run that has none; of a resumed one, sees that nothing changed since it began.

    Args:
        out: the run's folder.
        now: what the data are.
        changed: go on with other data than before, and take these for the run's from now on.

    Raises:
        DataError: the data changed, naming how; or the record is damaged.
    """
    path = out / NAME
    if path.exists() and not changed:
        differences = changes(read_checked(path, DataRecord), now)
        if not differences:
            return
        raise DataError(
            f"{out}: the data are no longer what the run began with: {'; '.join(differences)}. Bring them back, "
            "begin a new run, or go on with them as they are: add --data-changed-on-purpose"
        )
    write_json(path, now.model_dump(mode="json"), None)


def changes(before: DataRecord, now: DataRecord) -> list[str]:
    """What differs, a few words each; empty where nothing does."""
    differences = []
    if before.classes != now.classes:
        pairs = enumerate(zip(before.classes, now.classes, strict=False))
        first = next((f"class {i} is {b!r}, was {a!r}" for i, (a, b) in pairs if a != b), None)
        differences.append(first or f"{len(now.classes)} classes, were {len(before.classes)}")
    nothing = SplitRecord(fingerprint="", images={})
    for words, old, new in (("training", before.train, now.train), ("validation", before.val, now.val)):
        differences += split_changes(words, old or nothing, new or nothing)
    for key in sorted(before.files.keys() | now.files.keys()):
        if before.files.get(key) != now.files.get(key):
            differences.append(f"{key} is another file" if key in now.files else f"the file of {key} is gone")
    return differences


def split_changes(words: str, before: SplitRecord, now: SplitRecord) -> list[str]:
    """What differs in one split."""
    if before == now:
        return []
    both = [name for name in now.images if name in before.images and before.images[name] != now.images[name]]
    altered = [name for name in both if sizes(before.images[name]) != sizes(now.images[name])]
    lists = {
        "gone": [name for name in before.images if name not in now.images],
        "new": [name for name in now.images if name not in before.images],
        "altered": altered,
        "written anew, with the size they had": [name for name in both if name not in set(altered)],
    }
    differences = [f"{len(names)} {words} images {what} (such as {names[0]})" for what, names in lists.items() if names]
    return differences or [f"the masks of the {words} images are read otherwise, or their order is another"]


def sizes(stamp: str) -> list[str]:
    """The sizes alone."""
    return [part.partition("@")[0] for part in stamp.split()]
