"""Images and masks as files: finding the pairs, and reading one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segproto.data.archives import Member, file_at, is_folder, leading_into, members_below
from segproto.data.base import Sample, SegmentationDataset, stamp_of
from segproto.data.images import orientation
from segproto.data.instances import CITYSCAPES_SIZES, LABELS, instance_file, read_instances
from segproto.data.labels import LabelMap
from segproto.data.parts import PartTable
from segproto.data.picture import read_pixels
from segproto.data.pixels import PLAIN, PixelRule
from segproto.data.suffixes import IMAGE_SUFFIXES, MASK_SUFFIXES, ODD_MASK_SUFFIXES, PICTURE_SUFFIXES
from segproto.errors import DataError
from segproto.files.reading import read_text, require_text_name
from segproto.files.walking import files_below
from segproto.prototypes.labels import IGNORE_INDEX


class Named(NamedTuple):
    """What the files of a kind are called: ``before`` NAME ``after``, and a suffix (empty: any usual one)."""

    before: str
    after: str
    ending: str


ANY = Named("", "", "")


@dataclass
class Pairs:
    """What was found in a folder of images and a folder of masks.

    Attributes:
        images: name (relative path without suffix) to image file, in name order.
        masks: name to mask file.
        doubles: one line for each file whose name another file already has.
        mask_folder: where a mask is looked for, if that is one folder.
        mask_named: what its file is called.
    """

    images: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    doubles: list[str] = field(default_factory=list)
    mask_folder: Path | None = None
    mask_named: Named = ANY

    def without_mask(self, name: str) -> str:
        """What is wrong with an image that has no mask."""
        if self.mask_folder is None:
            return f"{self.images[name]}: has no mask"
        before, after, ending = self.mask_named
        parent, _, own = name.rpartition("/")
        expected = self.mask_folder / parent / f"{before}{own}{after}{ending or '.png'}"
        others = "" if ending else " (or .tif, .bmp)"
        return f"{self.images[name]}: has no mask; expected {expected}{others}: add it, or remove the image"


def _scan(folder: Path, suffixes: frozenset[str], named: Named, doubles: list[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for name, path in sorted(_files(folder, suffixes, named), key=lambda item: item[0].split("/")):
        if name in files:
            doubles.append(f"{path}: has the same name as {files[name]}; remove or rename one")
        else:
            files[name] = path
    return files


def _files(folder: Path, suffixes: frozenset[str], named: Named) -> Iterator[tuple[str, Path]]:
    """Name and path of every file below a folder that is so named (a path object only for these)."""
    before, after, only = named
    if (archived := leading_into(folder)) is not None:
        yield from _members(*archived, suffixes, named)
        return
    for below, entry in files_below(folder):
        stem, suffix = os.path.splitext(entry.name)
        fits = stem.startswith(before) and stem.endswith(after) and len(stem) > len(before) + len(after)
        if fits and suffix.lower() in suffixes and only in ("", suffix) and not entry.name.startswith("."):
            yield f"{below}{stem[len(before) : len(stem) - len(after)]}", Path(entry.path)


def _members(path: Path, folder: str, suffixes: frozenset[str], named: Named) -> Iterator[tuple[str, Any]]:
    """The same of a folder in a zip archive; its members stand where paths are expected."""
    before, after, only = named
    for name, member in members_below(path, folder):
        above, stem, suffix = name[: -len(member.name)], member.stem, member.suffix
        fits = stem.startswith(before) and stem.endswith(after) and len(stem) > len(before) + len(after)
        shown = not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
        if fits and shown and suffix.lower() in suffixes and only in ("", suffix):
            yield f"{above}{stem[len(before) : len(stem) - len(after)]}", member


def named_by(place: Path, suffix: str) -> tuple[Path, Named]:
    """The folder and the names that a setting means: a folder, or ``images/img_*.jpg`` with ``*`` for the name."""
    if "*" not in place.name:
        return place, Named("", suffix, "")
    before, after = place.name.split("*", 1)
    stem, ending = os.path.splitext(after)
    stem, ending = (stem, ending) if ending.lower() in PICTURE_SUFFIXES else (after, "")
    if stem == after and after.lower() in PICTURE_SUFFIXES:  # splitext takes ".jpg" for a name
        stem, ending = "", after
    return place.parent, Named(before, f"{stem}{suffix}", ending)


def find_pairs(images: Path, labels: Path, image_suffix: str = "", label_suffix: str = "") -> Pairs:
    """All images and masks under two folders (which may be the same one if the suffixes differ).

    Args:
        images: a folder, or ``FOLDER/img_*.jpg``: files below it, ``*`` is what image and mask have in common.
        labels: the same of the masks.
        image_suffix: end of image file stems that does not belong to the name.
        label_suffix: the same of the masks.

    Raises:
        DataError: if a folder is missing or holds no image.
    """
    (images, image_named), (labels, mask_named) = named_by(images, image_suffix), named_by(labels, label_suffix)
    for folder, key in ((images, "data.images"), (labels, "data.labels")):
        if not is_folder(folder):
            alternative = ", or to null if there are tags alone (pixelcontrast)" if folder == labels else ""
            raise DataError(f"{folder}: no such folder; set {key} to the folder's name under data.root{alternative}")
    pairs = Pairs(mask_folder=labels, mask_named=mask_named)
    pairs.images = _scan(images, IMAGE_SUFFIXES, image_named, pairs.doubles)
    pairs.masks = _scan(labels, MASK_SUFFIXES, mask_named, pairs.doubles)
    if not pairs.masks and images != labels:
        pairs.masks = _scan(labels, ODD_MASK_SUFFIXES, mask_named, pairs.doubles)
    if images == labels and mask_named != image_named:
        masks = set(pairs.masks.values())
        pairs.images = {name: path for name, path in pairs.images.items() if path not in masks}
    if not pairs.images:
        ending = f" ending in {image_suffix!r}" if image_suffix else ""
        raise DataError(f"{images}: holds no image{ending} ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return pairs


def find_part_maps(folder: Path, suffix: str) -> dict[str, Path]:
    """Part maps by image name.

    Raises:
        DataError: there is no such folder, it holds none, or two of one name.
    """
    doubles: list[str] = []
    part_maps = _scan(folder, MASK_SUFFIXES, Named("", suffix, ""), doubles) if folder.is_dir() else {}
    if doubles:
        raise DataError(doubles[0])
    if not part_maps:
        ending = f" ending in {suffix!r}" if suffix else ""
        hint = "set data.part_maps to their folder under data.root, and data.part_suffix to what their names end in"
        raise DataError(f"{folder}: holds no part map{ending}; {hint}")
    return part_maps


def read_list(path: Path) -> list[str]:
    """Image names from a text file, one per line (a suffix such as ``.jpg`` is taken off); empty lines and # ignored.

    Lines of an image file and a mask file under the data root (VOC's ``/JPEGImages/x.jpg /SegmentationClassAug/x.png``)
    are read too: the name is the image's path below its first folder.

    Raises:
        DataError: if the file cannot be read, is empty or names an image twice.
    """
    file = file_at(path)
    if isinstance(file, Member):
        names = listed_names(file.open_binary().read().decode("utf-8", "replace").removeprefix("\ufeff"))
    else:
        names = listed_names(read_text(path, what="list of image names"))
    if not names:
        raise DataError(f"{path}: the list of image names is empty")
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: {double!r} is listed twice")
    return names


def listed_names(text: str) -> list[str]:
    """The image names in the text of a list, see :func:`read_list`."""
    lines = [line.strip() for line in text.splitlines()]
    entries = [line for line in lines if line and not line.startswith("#")]
    entries = [_image_of_two(entry) or entry for entry in entries]
    return [e[: -len(Path(e).suffix)] if Path(e).suffix.lower() in IMAGE_SUFFIXES else e for e in entries]


def _image_of_two(line: str) -> str | None:
    """The first of two files on a line, without its first folder; None for every other line (names may hold spaces)."""
    files = [PurePosixPath(part) for part in line.split()]
    if len(files) != 2 or not all(file.suffix.lower() in IMAGE_SUFFIXES for file in files):
        return None
    parts = files[0].relative_to("/").parts if files[0].is_absolute() else files[0].parts
    return "/".join(parts[1:]) or parts[0]


def size_advice(image: Path, swapped: bool) -> str:
    """How to mend a mask of another size than its image; ``swapped``: height and width are exchanged."""
    exif = orientation(image) if swapped else 1
    if exif > 4:
        return (
            f"{image} has EXIF orientation {exif}, which is not applied: save it with its pixels turned upright and "
            "without the orientation"
        )
    return "expected one size: draw or save the mask at the image's own size"


class PairDataset(SegmentationDataset):
    """Image files and mask files.

    Args:
        split: ``train`` or ``val``.
        names: the images of the split.
        pairs: where the files are; each name must have both.
        labels: what the values in the masks mean.
        parts: the part table and the part map of every image that has one, by name.
        rule: how image files become pixels; masks are void where these hold no image.

    Raises:
        DataError: if a name has no image or no mask.
    """

    def __init__(
        self,
        split: str,
        names: Sequence[str],
        pairs: Pairs,
        labels: LabelMap,
        parts: tuple[PartTable, Mapping[str, Path]] | None = None,
        rule: PixelRule = PLAIN,
    ) -> None:
        for kind, files in (("image", pairs.images), ("mask", pairs.masks)):
            missing = [name for name in names if name not in files]
            if missing:
                first = missing[0]
                line = pairs.without_mask(first) if kind == "mask" else f"{split}: no image file for {first!r}"
                others = f" ({len(missing) - 1} others have none either)" if len(missing) > 1 else ""
                raise DataError(f"{line}{others}; `segproto data verify` lists all")
        self.split = split
        self.names = tuple(names)
        self.labels = labels
        self.classes = labels.table
        self._images = [require_text_name(pairs.images[name]) for name in names]
        self._masks = [pairs.masks[name] for name in names]
        self._parts = parts
        self.rule = rule

    def __getitem__(self, index: int) -> Sample:
        image, inside = read_pixels(self._images[index], self.rule)
        mask = self.labels.read(self._masks[index])
        if image.shape[1:] != mask.shape:
            (ih, iw), (mh, mw) = image.shape[1:], mask.shape
            line = f"{self._masks[index]}: the mask is {mw}x{mh} pixels (width x height), its image {iw}x{ih}"
            raise DataError(f"{line}; {size_advice(self._images[index], (mh, mw) == (iw, ih))}")
        if inside is not None:
            mask = torch.where(inside, mask, IGNORE_INDEX)
        return Sample(image, mask, self.names[index], self.rule.show)

    def path(self, index: int) -> Path | None:
        return self._images[index]

    def stamp(self, index: int) -> str:
        return stamp_of(self._images[index], self._masks[index])

    def mask_path(self, index: int) -> Path:
        """The mask file."""
        return self._masks[index]

    def parts(self, index: int) -> Tensor | None:
        """Part ids of an image; None if it has no part map.

        Raises:
            DataError: naming the file: another size than the mask's, or a value outside the part table.
        """
        if self._parts is None:
            return None
        table, part_maps = self._parts
        path = part_maps.get(self.names[index])
        return None if path is None else table.read(path, self.labels.read(self._masks[index]))

    @property
    def images_with_parts(self) -> int:
        """How many images have a part map."""
        return 0 if self._parts is None else sum(name in self._parts[1] for name in self.names)

    @property
    def part_names(self) -> dict[int, str]:
        return {} if self._parts is None else self._parts[0].names

    def instances(self, index: int) -> Tensor | None:
        """Instance numbers from the official file beside Cityscapes' label ids; None if it is not there.

        Raises:
            DataError: naming the file, if it cannot be read.
        """
        file = instance_file(self._masks[index])
        return None if file is None else read_instances(file)

    @property
    def instance_sizes(self) -> dict[str, float]:
        return CITYSCAPES_SIZES if self._masks and self._masks[0].name.endswith(LABELS) else {}

    @property
    def assumes_void(self) -> bool:
        return self.labels.assumes_void

    @property
    def label_source(self) -> str | None:
        return os.path.commonpath([os.path.dirname(str(path)) for path in self._masks]) if self._masks else None

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.labels.key.encode())
        if self.rule != PLAIN:
            digest.update(repr(self.rule.to_json()).encode())
        for name, *paths in zip(self.names, self._images, self._masks, strict=True):
            stats = [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
            digest.update(repr((name, stats)).encode())
        return digest.hexdigest()[:16]
