"""Masks that a run makes, as a folder data set that any other method can train on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from segproto.data.base import ClassTable, SegmentationDataset
from segproto.data.images import read_indices
from segproto.data.picture import to_pil
from segproto.data.square import CentreSquare
from segproto.files import fresh, link, write_picture

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
    with fresh(root / "classes.yaml", None) as file:
        entries = [
            {"name": name, "values": index, "colour": list(colour)}
            for index, (name, colour) in enumerate(zip(classes.names, classes.colours, strict=True))
            if int(pixels[index]) > 0
        ]
        text = yaml.safe_dump({"classes": entries, "void": [255]}, sort_keys=False, default_flow_style=None)
        file.write(text.encode())


def add_image(root: Path, dataset: SegmentationDataset, index: int, image: Tensor) -> None:
    """Puts an image beside its mask: a link to the user's file (a copy where links cannot be had), or a PNG.

    Args:
        root: the folder.
        dataset: whose image it is.
        index: its number.
        image: uint8 (3, H, W), as the mask shows it.
    """
    source = None if isinstance(dataset, CentreSquare) else dataset.path(index)
    source = source if isinstance(source, Path) else None  # a page of a stack is no file
    folder, name = root / "images", dataset.names[index]
    target = folder / f"{name}{PNG if source is None else source.suffix}"
    if target.exists():
        return
    if source is not None:
        link(target, source.absolute())
        return
    write_picture(target, lambda file: to_pil(image).save(file, "PNG"), None)


def save_mask(tensors: dict[str, Tensor], file: BinaryIO) -> None:
    """``mask``, uint8 (H, W), as an 8-bit gray PNG."""
    Image.fromarray(tensors["mask"].numpy()).save(file, "PNG")
