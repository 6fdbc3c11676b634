"""What the stages leave on disk: compressed npz files of the classes an image has, and where they lie in a run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from torch import Tensor

from segproto.data.base import Sample
from segproto.data.cams import read_npz
from segproto.errors import DataError, plain
from segproto.files import remove
from segproto.training.procedures.map_images import result_path

log = logging.getLogger(__name__)

NPZ = ".npz"
CAMS = Path("stages/cams/maps")
SCORES = Path("stages/crf/scores")
MASKS = Path("masks")


def save_scores(tensors: dict[str, Tensor], file: BinaryIO | Path) -> None:
    """Tensors as a compressed npz; floats with 16 bits."""
    arrays = {k: (v.half() if v.is_floating_point() else v).numpy() for k, v in tensors.items()}
    np.savez_compressed(file, allow_pickle=False, **arrays)


def read_scores(path: Path) -> dict[str, Tensor]:
    """What :func:`save_scores` wrote.

    Raises:
        DataError: the file is missing, damaged, or no such file.
    """
    arrays = read_npz(path)
    if "classes" not in arrays:
        raise DataError(f"{path}: holds {', '.join(arrays) or 'nothing'}; expected classes and maps")
    return arrays


class ImageMaps(NamedTuple):
    """Activation maps of one image.

    Attributes:
        classes: uint8 (K,), its classes, without the background.
        maps: float (K, H, W) in 0..1.
    """

    classes: Tensor
    maps: Tensor


def read_maps(folder: Path, sample: Sample) -> ImageMaps:
    """The maps of an image, as the CAM stage wrote them.

    Raises:
        DataError: the file is missing, damaged, or was made of an image of another size.
    """
    path = result_path(folder, sample.name, NPZ)
    arrays = read_scores(path)
    maps = arrays.get("maps")
    if maps is None or maps.ndim != 3 or len(maps) != len(arrays["classes"]):
        raise DataError(f"{path}: holds no map of a class; delete it and run the stage that wrote it again")
    if maps.shape[1:] != sample.image.shape[1:]:
        map_size, size = ("x".join(map(str, reversed(shape))) for shape in (maps.shape[1:], sample.image.shape[1:]))
        raise DataError(
            f"{path}: maps of {map_size}, the image is {size} (width x height); "
            "delete it and run the stage that wrote it again"
        )
    return ImageMaps(arrays["classes"], maps)


def remove_damaged(folder: Path) -> None:
    """Removes npz files that cannot be read, as a crash of the machine leaves them: they are made again.

    Each is told in a warning.
    """
    for path in sorted(folder.rglob(f"*{NPZ}")):
        try:
            read_scores(path)
        except DataError as error:
            log.warning("%s; it is made again", plain(error).partition("; delete")[0])
            remove(path)
