"""Masks that a run makes, as a folder data set that any other method can train on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import yaml
from PIL import Image
from torch import Tensor

from segproto.data.base import ClassTable, SegmentationDataset
from segproto.data.square import CentreSquare
from segproto.training.files import disk_errors

PNG = ".png"


def begin_mask_folder(root: Path, classes: ClassTable) -> Path:
    """Makes the folder with its ``classes.yaml``; names there may be changed by hand before the masks are used.

    Returns:
        The folder for the masks.
    """
    labels = root / "labels"
    with disk_errors(root):
        labels.mkdir(parents=True, exist_ok=True)
        entries = [
            {"name": name, "values": index, "colour": list(colour)}
            for index, (name, colour) in enumerate(zip(classes.names, classes.colours, strict=True))
        ]
        text = yaml.safe_dump({"classes": entries, "void": [255]}, sort_keys=False, default_flow_style=None)
        fresh = root / f".classes.yaml.{os.getpid()}"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(root / "classes.yaml")
    return labels


def add_image(root: Path, dataset: SegmentationDataset, index: int, image: Tensor) -> None:
    """Puts an image beside its mask: a link to the user's file (a copy where links cannot be had), or a PNG.

    Args:
        root: the folder.
        dataset: whose image it is.
        index: its number.
        image: uint8 (3, H, W), as the mask shows it.
    """
    source = None if isinstance(dataset, CentreSquare) else dataset.path(index)
    folder, name = root / "images", dataset.names[index]
    target = folder / f"{name}{PNG if source is None else source.suffix}"
    if target.exists():
        return
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            if source is None:
                with fresh.open("wb") as file:
                    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG")
            else:
                link_or_copy(source.absolute(), fresh)
            os.replace(fresh, target)
        finally:
            fresh.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """A symbolic link, or a copy on systems that refuse links."""
    try:
        target.symlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def save_mask(tensors: dict[str, Tensor], path: Path) -> None:
    """``mask``, uint8 (H, W), as an 8-bit gray PNG."""
    with path.open("wb") as file:
        Image.fromarray(tensors["mask"].numpy()).save(file, "PNG")
