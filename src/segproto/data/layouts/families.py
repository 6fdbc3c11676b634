"""Picture files grouped by what their folders say: role, split, and the folders that only belong to a name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from segproto.data.layouts.listing import File, Listing
from segproto.data.layouts.pairing import Affixes
from segproto.data.layouts.words import IMAGE, MASK, OTHER, role_of, split_in
from segproto.data.suffixes import IMAGE_SUFFIXES, LOSSY_SUFFIXES, MASK_SUFFIXES, ODD_MASK_SUFFIXES

SPLIT = "{split}"


@dataclass(frozen=True)
class Entry:
    """A picture file.

    Attributes:
        file: itself.
        stem: its name without the suffix, and with ``{split}`` for the word that told the split: ``21_{split}``.
        suffix: of the file, in lower case, with the dot.
        rest: folders that tell nothing, as in ``aachen/``; they belong to the name.
        split: what a folder tells, or None.
        folder: the word that told it.
    """

    file: File
    stem: str
    suffix: str
    rest: str
    split: str | None
    folder: str | None


@dataclass
class Family:
    """Pictures whose folders say the same, but for the split.

    Attributes:
        role: ``image``, ``mask``, ``other`` or None.
        template: the folders that say it, as in ``images/{split}``; empty for the root.
        leading: the template stands before all other folders, so that a setting can name it.
        entries: the files.
    """

    role: str | None
    template: str
    leading: bool = True
    entries: list[Entry] = field(default_factory=list)

    def pattern(self, prefix: str, suffix: str, entries: Sequence[Entry]) -> str:
        """As ``images/{split}/img_*.jpg``."""
        endings = {entry.suffix for entry in entries}
        file = f"{prefix}*{suffix}{endings.pop() if len(endings) == 1 else ''}"
        return f"{self.template}/{file}" if self.template else file

    def only(self, role: str, entries: Sequence[Entry]) -> Family:
        """A part of it."""
        return Family(role, self.template, self.leading, list(entries))


def families(listing: Listing) -> list[Family]:
    """All picture files, grouped."""
    families_by_key: dict[tuple[str | None, str], Family] = {}
    pictures = list(listing.pictures())
    top = _idle_top([path for path, _ in pictures])
    for path, file in pictures:
        role, split, folder = None, None, None
        template: list[str] = []
        rest: list[str] = []
        leading = True
        for depth, component in enumerate(path.parts[:-1]):
            if depth == 0 and component == top:
                template.append(component)
                continue
            word, here = role_of(component), split_in(component)
            role = word or role
            split, folder = here or (split, folder)
            leading = leading and not (rest and (word or here))
            if word or here:
                template.append(component.replace(here[1], SPLIT) if here else component)
            else:
                rest.append(component)
        key = (role, "/".join(template))
        family = families_by_key.setdefault(key, Family(*key))
        family.leading = family.leading and leading
        below = "".join(f"{part}/" for part in rest)
        stem = (
            path.stem if folder is None else re.sub(rf"(?<![A-Za-z]){folder}(?![A-Za-z])", SPLIT, path.stem, flags=re.I)
        )
        family.entries.append(Entry(file, stem, path.suffix.lower(), below, split, folder))
    return list(families_by_key.values())


def _idle_top(paths: Sequence[PurePosixPath]) -> str | None:
    """The one folder that all lie in, unless its name is nothing but a role or a split."""
    tops = {path.parts[0] if len(path.parts) > 1 else "" for path in paths}
    if len(tops) != 1 or not (top := tops.pop()):
        return None
    word = split_in(top)
    return None if role_of(top) or (word and word[1] == top) else top


def images_and_masks(found: Sequence[Family]) -> tuple[list[Family], list[Family]]:
    """The families that may be images and those that may be masks; one that says nothing is divided by file names."""
    images = [family for family in found if family.role == IMAGE]
    masks = [family for family in found if family.role == MASK]
    silent = [family for family in found if family.role is None]
    if masks:
        return [_images(family) for family in images or silent], [_masks(family) for family in masks]
    divided = [_divided(family) for family in [*images, *silent]]
    return [i for i, m in divided if i.entries and m.entries], [m for i, m in divided if i.entries and m.entries]


def _images(family: Family) -> Family:
    return family.only(IMAGE, [e for e in family.entries if e.suffix in IMAGE_SUFFIXES])


def _masks(family: Family) -> Family:
    exact = [entry for entry in family.entries if entry.suffix in MASK_SUFFIXES]
    odd = [entry for entry in family.entries if entry.suffix in ODD_MASK_SUFFIXES]
    return family.only(MASK, exact or odd)


def _divided(family: Family) -> tuple[Family, Family]:
    masks = [entry for entry in family.entries if role_of(entry.stem) == MASK]
    others = [entry for entry in family.entries if role_of(entry.stem) not in (MASK, OTHER)]
    if not masks:
        masks = [entry for entry in others if entry.suffix in MASK_SUFFIXES]
        others = [entry for entry in others if entry.suffix in LOSSY_SUFFIXES]
    return _images(family.only(IMAGE, others)), _masks(family.only(MASK, masks))


def shown(template: str, words: Sequence[str]) -> str:
    """A pattern with the words of the splits, as in ``images/{train,val}/*.jpg``."""
    return template.replace(SPLIT, "{" + ",".join(words) + "}" if len(words) > 1 else "".join(words))


@dataclass(frozen=True)
class Reading:
    """One way to pair images with masks.

    Attributes:
        images: where the images are.
        masks: where the masks are.
        rule: how their names go together.
        pairs: the images with a mask each.
    """

    images: Family
    masks: Family
    rule: Affixes
    pairs: Sequence[tuple[Entry, Entry]]

    @property
    def patterns(self) -> tuple[str, str]:
        """Of images and of masks."""
        images, masks = [image for image, _ in self.pairs], [mask for _, mask in self.pairs]
        return (
            self.images.pattern(self.rule.image_prefix, self.rule.image_suffix, images),
            self.masks.pattern(self.rule.mask_prefix, self.rule.mask_suffix, masks),
        )

    @property
    def settings(self) -> dict[str, str]:
        """What makes the same reading without recognition; empty where no setting can."""
        if any(image.rest != mask.rest for image, mask in self.pairs):
            return {}
        image_words = {entry.folder for entry, _ in self.pairs}
        same_words = all(image.folder == mask.folder for image, mask in self.pairs)
        split = SPLIT in self.images.template or SPLIT in self.masks.template
        if not (self.images.leading and self.masks.leading) or (split and not same_words) or (
            split and None in image_words
        ):  # fmt: skip
            return {}
        words = sorted({str(entry.folder) for entry, _ in self.pairs})
        images, masks = (shown(p, words) if len(words) == 1 else p for p in self.patterns)
        return {"data.images": images, "data.labels": masks}

    @property
    def words(self) -> str:
        """As ``images/*.jpg with masks/*_mask.png``."""
        images, masks = self.patterns
        folders = list(dict.fromkeys(image.folder for image, _ in self.pairs if image.folder))
        mask_folders = list(dict.fromkeys(mask.folder for _, mask in self.pairs if mask.folder))
        return f"{shown(images, folders)} with {shown(masks, mask_folders)}"
