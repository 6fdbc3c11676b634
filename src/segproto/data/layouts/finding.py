"""What was found in a folder: images, masks, splits, and what is known of the classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from segproto.data.drawn import Drawn
from segproto.data.layouts.listing import File, Listing
from segproto.data.layouts.words import TEST, TRAIN, VAL
from segproto.errors import DataError

FRACTION = 0.2  # of the images validate where nothing tells the split
BACKGROUND = "background"  # in masks drawn from shapes: where none lies


@dataclass(frozen=True)
class Item:
    """One image.

    Attributes:
        name: unique in its split.
        image: its file.
        mask: a picture file, or what a mask is drawn from; None: there is none.
        split: ``train``, ``val``, ``test``, or None where nothing tells.
        folder: the word that told the split, as the folder or list has it.
    """

    name: str
    image: File
    mask: File | Drawn | None
    split: str | None = None
    folder: str | None = None


@dataclass(frozen=True)
class NamedValue:
    """A class that a file names.

    Attributes:
        name: of the class.
        value: its number in the masks, if that is told.
        colour: its colour ``0xRRGGBB`` in the masks or in pictures, if that is told.
    """

    name: str
    value: int | None = None
    colour: int | None = None


@dataclass(frozen=True)
class Finding:
    """A folder, understood.

    Attributes:
        layout: the name of the layout.
        words: what is taken for images and masks, as in ``images/*.jpg with masks/*_mask.png``.
        items: the images.
        settings: what makes the same reading without recognition, dotted setting to value; empty where only
            ``data.layout`` does.
        numbers: name of a label to its number in masks that are drawn from shapes; None: masks are pictures.
        names: the classes as a file beside the images names them.
        names_from: that file.
        notes: what else a person should know, a line each.
        loose: mask files without an image.
        drawn: share of the images that validate where nothing tells the split.
        void: numbers that mean "not labelled" where folders are so named.
    """

    layout: str
    words: str
    items: Sequence[Item]
    settings: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, int] | None = None
    names: Sequence[NamedValue] = ()
    names_from: str = ""
    notes: Sequence[str] = ()
    loose: Sequence[File] = ()
    void: Sequence[int] = ()
    drawn: float = FRACTION

    @property
    def masked(self) -> list[Item]:
        """The images that have a mask."""
        return [item for item in self.items if item.mask is not None]

    def of(self, split: str) -> list[Item]:
        """The images of a split."""
        return [item for item in self.items if item.split == split]

    @property
    def has_val(self) -> bool:
        """Whether the layout itself names validation images."""
        return any(item.split == VAL and item.mask is not None for item in self.items)

    def folders(self, split: str) -> list[str]:
        """The words by which a split is told, the usual one first."""
        return [word for word, _ in Counter(i.folder for i in self.of(split) if i.folder).most_common()]

    def split_words(self) -> str:
        """How the images are divided, in a few words."""
        counts = {split: sum(i.mask is not None for i in self.of(split)) for split in (TRAIN, VAL, TEST)}
        sources = [f"{self._told_by(split)} ({n} {split})" for split, n in counts.items() if n]
        if counts[VAL]:
            return f"split by {' and '.join(sources)}" if counts[TRAIN] else f"split by {sources[0]}, all others train"
        rest = f"only {' and '.join(sources)} told: " if sources else ""
        drawn = "the training images" if counts[TRAIN] else "the images"
        return f"{rest}validation is {self.drawn:.0%} of {drawn}, drawn at random"

    def _told_by(self, split: str) -> str:
        """The folder or list that tells a split; where a rule does, the split itself."""
        word = next(iter(self.folders(split)), "")
        return word if "." in word else f"{word}/" if word else split

    def line(self) -> str:
        """All of it in one line."""
        with_masks = len(self.masked)
        return f"read as {self.layout}: {self.words}, {with_masks} images with masks, {self.split_words()}"


Looks = Callable[[Listing], Finding | None]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout.

    Attributes:
        name: as in ``data.layout``.
        title: one line for people.
        looks: what it finds in a listing; None: nothing of its kind.
        lacks: what of its kind is there and cannot be read, and what to do; empty: nothing. Asked where no layout fits.
    """

    name: str
    title: str
    looks: Looks
    lacks: Callable[[Listing], str] = lambda listing: ""


def unique(items: Sequence[Item], root: object) -> list[Item]:
    """Items in name order, each name once in its split.

    Raises:
        DataError: two images of one split have one name.
    """
    seen: dict[tuple[str | None, str], Item] = {}
    for item in sorted(items, key=lambda item: item.name.split("/")):
        key = (item.split, item.name)
        if key in seen:
            raise DataError(f"{item.image}: has the same name as {seen[key].image}; remove or rename one")
        seen[key] = item
    doubled = Counter(item.name for item in seen.values())
    if all(count == 1 for count in doubled.values()):
        return list(seen.values())
    return [replace(item, name=f"{item.folder or item.split}/{item.name}" if doubled[item.name] > 1 and item.split
                    else item.name) for item in seen.values()]  # fmt: skip
