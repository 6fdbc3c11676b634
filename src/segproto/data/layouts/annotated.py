"""What layouts of annotation tools share: labels to numbers, names of images to files, and the finding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

from segproto.data.layouts.finding import BACKGROUND, Finding, Item, unique
from segproto.data.layouts.listing import File, Listing
from segproto.data.layouts.shapes import Shape, Shapes
from segproto.data.layouts.words import TEST, role_of, split_in
from segproto.data.suffixes import IMAGE_SUFFIXES
from segproto.errors import DataError

SHOWN = 3  # names in a note


def numbered(labels: Iterable[str]) -> dict[str, int]:
    """Labels to numbers from 1 in their order; the background is 0, also where a label is called so."""
    numbers = {BACKGROUND: 0}
    for label in labels:
        numbers.setdefault(label, len(numbers))
    return numbers


class Images:
    """The image files of a listing, found by the names that annotations give them."""

    def __init__(self, listing: Listing) -> None:
        self.files = {str(path): file for path, file in listing.pictures() if path.suffix.lower() in IMAGE_SUFFIXES}
        self.by_stem = {str(PurePosixPath(name).with_suffix("")): name for name in self.files}
        self._by_name: dict[str, list[str]] = {}
        for name in self.files:
            self._by_name.setdefault(PurePosixPath(name).name, []).append(name)

    def find(self, name: str, beside: str, split: str | None = None) -> str | None:
        """The path of an image.

        Args:
            name: as an annotation has it: a path, an address, with backslashes or without.
            beside: the annotation file's path; images may lie in its folder.
            split: of the annotation, which decides between images of one name.
        """
        given = unquote(name.replace("\\", "/")).rpartition("?d=")[2]
        folder = PurePosixPath(beside).parent
        for candidate in (str(folder / given), given, str(folder.parent / given)):
            if candidate in self.files:
                return candidate
        alike = self._by_name.get(PurePosixPath(given).name, [])
        if len(alike) > 1:
            alike = [path for path in alike if path.endswith(f"/{given}")] or alike
        if len(alike) > 1 and split is not None:
            alike = [path for path in alike if split_of_path(path)[0] == split]
        return alike[0] if len(alike) == 1 else None


def split_of_path(path: str) -> tuple[str | None, str | None]:
    """The split that the folders or the name of an annotation file tell, and the word; the last folder counts most."""
    parts = PurePosixPath(path).parts
    for part in (*reversed(parts[:-1]), PurePosixPath(path).stem):
        if given := split_in(part):
            return given
    return None, None


def name_of(path: str) -> str:
    """The name of an image: its path without the suffix, and without folders that tell a role or a split."""
    parts = PurePosixPath(path).with_suffix("").parts
    return "/".join([*(p for p in parts[:-1] if not role_of(p) and not split_in(p)), parts[-1]])


@dataclass
class Annotated:
    """One image and its shapes.

    Attributes:
        image: path of its file in the listing.
        source: path of the annotation file.
        shapes: in the order they are drawn in.
        size: (height, width) that the annotation tells.
        split: (split, word) that the annotation tells; (None, None): the image's folders do.
    """

    image: str
    source: str
    shapes: Sequence[Shape]
    size: tuple[int, int] | None = None
    split: tuple[str | None, str | None] = (None, None)


def finding_of(
    layout: str,
    listing: Listing,
    images: Images,
    annotated: Sequence[Annotated],
    numbers: dict[str, int],
    words: str,
    notes: Sequence[str],
) -> Finding:
    """The finding of a layout whose masks are drawn.

    Args:
        layout: its name.
        listing: of the folder.
        images: its image files.
        annotated: the annotated images.
        numbers: of labels.
        words: what is taken for masks, as in ``polygons of instances.json``.
        notes: for people.
    """
    items = []
    for one in annotated:
        split, folder = one.split if one.split[0] is not None else split_of_path(f"{PurePosixPath(one.image).parent}/x")
        mask = Shapes(listing.files[one.source], images.files[one.image], tuple(one.shapes), one.size)
        items.append(Item(name_of(one.image), images.files[one.image], mask, split, folder))
    drawn = {one.image for one in annotated}
    rest = [
        path
        for path in images.files
        if path not in drawn and split_of_path(f"{PurePosixPath(path).parent}/x")[0] != TEST
    ]
    if rest:
        notes = [*notes, f"{len(rest)} pictures have no annotation and are left out: {shown(rest)}"]
    return Finding(layout, words, unique(without_shared_folder(items), listing.root), numbers=numbers, notes=notes)


def without_shared_folder(items: Sequence[Item]) -> list[Item]:
    """Items without the one folder that all names begin with."""
    tops = {item.name.partition("/")[0] if "/" in item.name else "" for item in items}
    if len(tops) != 1 or "" in tops:
        return list(items)
    shorter = [Item(i.name.partition("/")[2], i.image, i.mask, i.split, i.folder) for i in items]
    return without_shared_folder(shorter)


def shown(names: Sequence[str]) -> str:
    """A few names."""
    more = f" and {len(names) - SHOWN} others" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def missing_note(missing: Sequence[str], source: str) -> list[str]:
    """A note of annotated images that are not there."""
    if not missing:
        return []
    return [f"{len(missing)} images that {source} names are not there and are left out: {shown(missing)}"]


def require_images(annotated: Sequence[Annotated], missing: Sequence[str], file: File) -> None:
    """Sees that any annotated image is there.

    Raises:
        DataError: none is: an export without its images.
    """
    if not annotated and missing:
        raise DataError(
            f"{file}: none of the {len(missing)} images it names is there ({shown(missing)}); export with images, or "
            "put them beside it"
        )
