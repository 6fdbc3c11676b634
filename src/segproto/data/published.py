"""The data sets of the papers, read as they are distributed: unpacked or in their zip archives, never copied.

A label map is applied by a table while a mask is read; names are listed anew each time, in well under a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from segproto.data.archives import Member, Tree
from segproto.data.crops import Crop
from segproto.data.kind import DataKind
from segproto.data.labels import LabelMap
from segproto.data.pairs import PairDataset, Pairs
from segproto.data.parts import PartTable, read_parts
from segproto.data.roots import known_root, user_file
from segproto.errors import DataError

if TYPE_CHECKING:
    from segproto.data.config import DataConfig

Files = Mapping[str, Path | Member | Crop]
LONG_NAMES = {
    "train": "training",
    "val": "validation",
}  # of splits, as ADE20K and Pascal Panoptic Parts have them


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Attributes:
        name: as it is distributed.
        holds: a folder that it unpacks to, below the root.
        digest: ``md5:...`` or ``sha1:...``, where known.
        into: folder below the root that it is unpacked in.
        optional: only for some variants.
    """

    name: str
    holds: str
    digest: str | None = None
    into: str = "."
    optional: bool = False


@dataclass(frozen=True)
class Found:
    """The files of one split of a data set."""

    images: Files
    masks: Files
    names: list[str] | None = None


@dataclass(frozen=True)
class PublishedParts:
    """Part maps that belong to a data set.

    Attributes:
        table: name of the shipped part table.
        folders: where they may lie, ``{split}`` and ``{long}`` (training, validation) filled in.
        ending: of their names.
        val_images: validation images with a part map in the published set.
        val_classes: classes with parts there.
    """

    table: str
    folders: tuple[str, ...]
    ending: str
    val_images: int
    val_classes: int

    def find(self, tree: Tree, split: str) -> Files:
        """Part maps by image name; empty if there are none."""
        names = {"split": split, "long": LONG_NAMES[split]}
        return tree.first_files([folder.format(**names) for folder in self.folders], self.ending)


@dataclass(frozen=True)
class Published:
    """A data set as distributed.

    Attributes:
        name: as in ``data.name``.
        title: one line for people.
        variable: environment variable of its root.
        where: address to get it from.
        terms: what its owners allow, in a few words.
        archives: what to download.
        variants: ways to read the labels (``data.variant``); the first is the default.
        counts: images per split when complete; ``variant/split`` where a variant differs.
        find: the files of a split (``train``, ``val``) of a variant.
        inner: folder that its archives put everything in; taken off or left, both are found.
        find_coarse: the same as ``find`` for labels that are read only if ``data.coarse`` asks for them.
        parts: its part maps, where there are some; read if they are there.
        unused: by variant, classes that no published label shows.
    """

    name: str
    title: str
    variable: str
    where: str
    terms: str
    archives: tuple[Archive, ...]
    variants: Mapping[str, Callable[[], LabelMap]]
    counts: Mapping[str, int]
    find: Callable[[Tree, str, str], Found]
    inner: str = ""
    find_coarse: Callable[[Tree, str, str], Found] | None = None
    parts: PublishedParts | None = None
    unused: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def variant(self, name: str | None) -> str:
        """The variant to read.

        Raises:
            DataError: an unknown one.
        """
        if name is not None and name not in self.variants:
            raise DataError(f"data.variant={name}: {self.name} has {', '.join(self.variants)}")
        return name or next(iter(self.variants))

    @property
    def prepare(self) -> str:
        """The command that unpacks its archives, up to the root."""
        return f"segproto data prepare {self.name} --from ARCHIVES --root"

    def count(self, variant: str, split: str) -> int | None:
        """Images of a complete split; None if unknown."""
        return self.counts.get(f"{variant}/{split}", self.counts.get(split))


def published_root(config: DataConfig, published: Published) -> Path:
    """``data.root``, else (also if that is a variable which is not set) the root set once for this data set.

    Raises:
        DataError: none is set, or it is no folder.
    """
    setting = None if config.root is None or str(config.root).startswith("$") else config.root
    root = setting or known_root(published.name, published.variable)
    if root is None:
        settings = f"data.root=DIR, ${published.variable}, or '{published.name}: DIR' in {user_file()}"
        raise DataError(
            f"where {published.name} lies is not set: {settings}; to get it: segproto data list {published.name}"
        )
    if not root.is_dir():
        name = f"data.root={root}" if setting else f"{root} (from ${published.variable} or {user_file()})"
        raise DataError(f"{name} is not a folder; to unpack archives: {published.prepare} {root}")
    return root / published.inner if published.inner and (root / published.inner).is_dir() else root


def published_kind(published: Published) -> DataKind:
    """What ``data.name`` means of a published set: all it takes is in its own record."""
    return DataKind(
        name=published.name,
        title=published.title,
        where=published.where,
        terms=published.terms,
        open=partial(open_published, published),
        reads=("variant",),
        published=published,
    )


def open_published(published: Published, config: DataConfig, split: str) -> PairDataset:
    """One split of a data set.

    Raises:
        DataError: in one line: what is missing, and the command that helps.
    """
    variant = published.variant(config.variant)
    root = published_root(config, published)
    find = published.find_coarse if config.coarse and published.find_coarse is not None else published.find
    files = find(Tree(root), split, variant)
    pairs = Pairs(dict(files.images), dict(files.masks))  # type: ignore[arg-type]
    names = list(files.images) if files.names is None else files.names
    if not names:
        need = ", ".join(archive.name for archive in published.archives if not archive.optional)
        raise DataError(
            f"{root}: no {split} images of {published.name} there; it needs {need or 'archives of ' + published.where},"
            f" as they are or unpacked: {published.prepare} {root}"
        )
    labels = published.variants[variant]()
    return PairDataset(split, names, pairs, labels, open_parts(published, Tree(root), split, labels))


def open_parts(
    published: Published, tree: Tree, split: str, labels: LabelMap
) -> tuple[PartTable, dict[str, Path]] | None:
    """The part table and the part maps of a split; None where there are none."""
    if published.parts is None:
        return None
    files = published.parts.find(tree, split)
    if not files:
        return None
    return read_parts(Path(published.parts.table), labels.table.names), dict(files)  # type: ignore[arg-type]
