"""Images with a picture each as mask, in whatever folders: the layout of most people and of most exports.

VOC and CVAT's "segmentation mask", Cityscapes, ADE20K, nnU-Net, Roboflow's PNG masks, Kvasir, DRIVE, one flat folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from segproto.data.layouts.families import SPLIT, Entry, Family, Reading, families, images_and_masks
from segproto.data.layouts.finding import Finding, Item, Layout, unique
from segproto.data.layouts.listing import Listing
from segproto.data.layouts.lists import split_by_lists
from segproto.data.layouts.names import read_names
from segproto.data.layouts.pairing import Affixes, rules
from segproto.data.layouts.words import MASK, TEST, role_of
from segproto.errors import DataError

VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".dcm")
PREFERRED = ("_gtFine_labelIds", "_labelIds")  # of several masks per image, the official one


def look_pictures(listing: Listing) -> Finding | None:
    """What pairs of pictures there are.

    Raises:
        DataError: images may have one of several masks; the settings that choose are named.
    """
    image_families, mask_families = images_and_masks(families(listing))
    readings = [
        reading
        for images in image_families
        for masks in mask_families
        for reading in _readings(images, masks)
        if reading.pairs
    ]
    if not readings:
        return None
    most = max(len(reading.pairs) for reading in readings)
    likely = [reading for reading in readings if 2 * len(reading.pairs) >= most]
    official = [r for r in likely if r.rule.mask_suffix in PREFERRED]
    if len(likely) > 1 and len(official) == 1:
        likely = official
    if len(likely) > 1:
        raise DataError(ambiguous(listing, likely))
    return _finding(listing, likely[0])


def ambiguous(listing: Listing, readings: Sequence[Reading]) -> str:
    """One line with all readings and the settings that choose one."""
    described = []
    for reading in readings[:4]:
        wanted = " ".join(f"{key}='{value}'" for key, value in reading.settings.items())
        described.append(f"{reading.words} ({wanted or 'no setting; move the others out of the folder'})")
    more = f" or {len(readings) - 4} others" if len(readings) > 4 else ""
    return f"{listing.root}: may be read in {len(readings)} ways; say which: {' or '.join(described)}{more}"


def _readings(images: Family, masks: Family) -> list[Reading]:
    with_masks = {entry.split for entry in masks.entries}
    wanted = [e for e in images.entries if None in with_masks or e.split is None or e.split in with_masks]
    stems = list(dict.fromkeys(entry.stem for entry in wanted))
    affixes = rules(stems, list(dict.fromkeys(entry.stem for entry in masks.entries)))
    return [Reading(images, masks, rule, _pairs(images.entries, masks.entries, rule)) for rule in affixes]


def _pairs(images: Sequence[Entry], masks: Sequence[Entry], rule: Affixes) -> list[tuple[Entry, Entry]]:
    """Partners of the same name, in the same folders and split where both tell them."""
    places: dict[tuple[str | None, str | None, str], Entry] = {}
    names: dict[str, list[Entry]] = {}
    for entry in masks:
        if (name := rule.mask_name(entry.stem)) is not None:
            places[entry.split, entry.rest, name] = entry
            names.setdefault(name, []).append(entry)
    pairs = []
    for image in images:
        name = rule.image_name(image.stem)
        if name is None:
            continue
        found_at = [places.get((split, image.rest, name)) for split in (image.split, None)]
        mask = found_at[0] or found_at[1]
        alone = names.get(name, [])
        if mask is None and len(alone) == 1 and (image.split is None or alone[0].split is None):
            mask = alone[0]
        if mask is not None and mask.file != image.file:
            pairs.append((image, mask))
    return pairs


def _finding(listing: Listing, reading: Reading) -> Finding:
    partner = {image.file: mask for image, mask in reading.pairs}
    used = {mask.file for _, mask in reading.pairs}
    items = []
    with_masks = {entry.split for pair in reading.pairs for entry in pair}
    unmasked: Counter[str] = Counter()
    for entry in reading.images.entries:
        if entry.split is not None and entry.split not in with_masks:
            unmasked[str(entry.folder)] += 1
            continue
        name = reading.rule.image_name(entry.stem)
        mask = partner.get(entry.file)
        split, folder = (entry.split, entry.folder) if mask is None or entry.split else (mask.split, mask.folder)
        if name is not None and (mask is not None or split != TEST):  # test images may lack some masks
            items.append(Item(f"{entry.rest}{name}", entry.file, None if mask is None else mask.file, split, folder))
    items = split_by_lists(listing, unique(items, listing.root))
    loose = [
        entry.file
        for entry in reading.masks.entries
        if entry.file not in used and reading.rule.mask_name(entry.stem) is not None and entry.split != TEST
    ]
    names, names_from = read_names(listing)
    return Finding(
        "pictures", reading.words, items, reading.settings, names=names, names_from=names_from, loose=loose,
        notes=[*_channels(reading), *_left_out(unmasked)], void=(0,) if _like_ade20k(reading, items) else (),
    )  # fmt: skip


def _like_ade20k(reading: Reading, items: Sequence[Item]) -> bool:
    """``images/training`` and ``annotations/training``: 0 is not labelled there."""
    places = (reading.images.template, reading.masks.template)
    return places == (f"images/{SPLIT}", f"annotations/{SPLIT}") and "training" in {item.folder for item in items}


def _left_out(unmasked: Mapping[str, int]) -> list[str]:
    """A note for each folder of a split whose images have no masks at all."""
    return [f"{count} images of {folder}/ are left out: none has a mask" for folder, count in unmasked.items()]


def _channels(reading: Reading) -> list[str]:
    """A note where a case has several files, one per channel (nnU-Net), of which only the first is read."""
    suffix = reading.rule.image_suffix
    if suffix != "_0000":
        return []
    others = [e.stem for e in reading.images.entries if e.stem.rpartition("_")[2] in ("0001", "0002", "0003")]
    if not others:
        return []
    return [
        f"{len(others)} further channels (such as {others[0]}) are not read, only *_0000 is: an image is one file; to "
        "see all of them save the channels of a case as the bands of one TIFF and set data.bands"
    ]


def why_not(listing: Listing) -> str:
    """What there is in a folder that no layout knows, for the error."""
    pictures = [path for path, _ in listing.pictures()]
    if not pictures:
        kinds = sorted({PurePosixPath(name).suffix.lower() for name in listing.files} - {""})[:6]
        return f"no picture there (files: {', '.join(kinds) or 'none'})"
    folders: dict[str, int] = {}
    for path in pictures:
        folders[str(path.parent)] = folders.get(str(path.parent), 0) + 1
    described = ", ".join(f"{folder}/ ({count} pictures)" for folder, count in list(folders.items())[:6])
    masks = [any(role_of(part) == MASK for part in path.parts[:-1]) for path in pictures]
    if all(masks):
        return f"{described}; these are masks without their images: put the images beside them, or export with images"
    return f"{described}; {'no image has a mask of a similar name' if any(masks) else 'none is named as masks are'}"


def volumes(listing: Listing) -> str:
    """What is missing where images or masks are volumes, as most of nnU-Net's are."""
    files = listing.ending(*VOLUMES)
    if not files:
        return ""
    return (
        f"{len(files)} files (such as {files[0]}) are volumes, which are not read: segproto sees pictures; save the "
        "slices of image and mask as TIFF stacks of the same name (data.pages=all takes each page for an image) or PNGs"
    )


PICTURES = Layout(
    name="pictures",
    title="images with a picture each as mask, in any usual folders",
    looks=look_pictures,
    lacks=volumes,
)
