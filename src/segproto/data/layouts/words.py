"""The words by which folders and files say what they hold: images or masks, and of which split."""

from __future__ import annotations

import re

IMAGE, MASK, OTHER = "image", "mask", "other"
TRAIN, VAL, TEST = "train", "val", "test"
SPLIT_WORDS = {
    TRAIN: ("train", "training", "trainset"),
    VAL: ("val", "valid", "validation", "valset", "validate", "dev"),
    TEST: ("test", "testing", "testset"),
}
ROLE_WORDS = {
    OTHER: ("object", "objects", "instance", "instances", "segmentationobject", "panoptic", "depth", "disparity"),
    MASK: (
        "mask", "masks", "label", "labels", "lbl", "lbls", "annotation", "annotations", "annot", "annots", "ann",
        "anns", "gt", "gts", "gtfine", "groundtruth", "groundtruths", "seg", "segs", "segmentation", "segmentations",
        "segmap", "segmaps", "segmentationclass", "segmentationclassaug", "target", "targets", "manual",
        "annotated", "matte", "anno", "annos", "trimap", "trimaps",
    ),
    IMAGE: (
        "image", "images", "img", "imgs", "jpegimages", "photo", "photos", "picture", "pictures", "pics", "frame",
        "frames", "rgb", "original", "originals", "input", "inputs", "raw", "leftimg8bit", "scans", "tiles",
    ),
}  # fmt: skip
_SPLIT_OF = {word: split for split, words in SPLIT_WORDS.items() for word in words}
_ROLE_OF = {word: role for role, words in ROLE_WORDS.items() for word in words}
_NNUNET = re.compile(r"(images|labels)(Tr|Ts|Va)")
_JOINED = re.compile(r"(train|val|valid|test)(annot|annotations?|masks?|labels?|images?|gt)")


def split_of(word: str) -> str | None:
    """``train``, ``val`` or ``test`` for one of their usual names, as in ``validation`` or ``train2017``."""
    return _SPLIT_OF.get(word.lower().rstrip("0123456789"))


def parts_of(component: str) -> list[str]:
    """The words of a folder's or file's name, as it has them: ``imagesTr`` is ``images``, ``Tr``."""
    for joined in (_NNUNET, _JOINED):
        if match := joined.fullmatch(component):
            return [*match.groups()]
    return [part for part in re.split(r"[^0-9A-Za-z]+", component) if part]


def split_in(component: str) -> tuple[str, str] | None:
    """The split that a name tells, and the word by which: ``("val", "valid")`` for ``valid_masks``."""
    if match := _NNUNET.fullmatch(component):
        return {"Tr": TRAIN, "Ts": TEST, "Va": VAL}[match[2]], match[2]
    for part in parts_of(component):
        if split := split_of(part):
            return split, part
    return None


def role_of(component: str) -> str | None:
    """``image``, ``mask`` or ``other`` (object numbers, depth) by the words of a name; None where it tells nothing."""
    whole = re.sub(r"[^0-9a-z]+", "", component.lower())
    if whole in _ROLE_OF:
        return _ROLE_OF[whole]
    camel = [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", component)]
    match = [_ROLE_OF[part] for part in [*(p.lower() for p in parts_of(component)), *camel] if part in _ROLE_OF]
    return next((role for role in ROLE_WORDS if role in match), None)
