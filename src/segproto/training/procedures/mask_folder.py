"""Masks that a run makes, as a folder data set that any other method can train on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from segproto.data.base import ClassTable, SegmentationDataset
from segproto.data.images import read_indices
from segproto.data.square import CentreSquare
from segproto.files import disk_errors

PNG = ".png"


def mask_pixels(root: Path, names: Sequence[str], num_classes: int) -> Tensor:
    """Pixels of each class, int64 (C,), in the masks of these images under ``root/labels``."""
    counts = torch.zeros(256, dtype=torch.int64)
    for name in names:
        values = torch.from_numpy(read_indices(root / "labels" / f"{name}{PNG}").astype(np.int64))
        counts += torch.bincount(values.flatten(), minlength=256)
    return counts[:num_classes]


def write_classes(root: Path, classes: ClassTable, pixels: Tensor) -> None:
    """``classes.yaml`` of the classes that some mask shows; it may be changed by hand before the masks are used.

    Args:
        root: the folder.
        classes: of the masks.
        pixels: (C,) how many pixels each has; a class without any would be one that no method can learn.
    """
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        entries = [
            {"name": name, "values": index, "colour": list(colour)}
            for index, (name, colour) in enumerate(zip(classes.names, classes.colours, strict=True))
            if int(pixels[index]) > 0
        ]
        text = yaml.safe_dump({"classes": entries, "void": [255]}, sort_keys=False, default_flow_style=None)
        fresh = root / f".classes.yaml.{os.getpid()}"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(root / "classes.yaml")


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
