"""Files of class activation maps: compressed npz of this package, and pickled dicts as published code writes them."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segproto import foreign
from segproto.errors import DataError, WeightsError
from segproto.files.reading import require_ordinary
from segproto.files.walking import paths_below

CAM_SUFFIXES = (".npz", ".npy")
HIGHEST = 1.01  # of a map; published ones are at most 1 but for rounding
MOST = 2**30  # bytes of the arrays in a file
_BROKEN = (OSError, ValueError, TypeError, AttributeError, LookupError, EOFError, RuntimeError, MemoryError,
           OverflowError, struct.error, zipfile.BadZipFile, zlib.error)  # fmt: skip


def cam_files(folder: Path) -> dict[str, Path]:
    """Name (the path below the folder without its suffix) to file, of all map files below a folder.

    Raises:
        DataError: no such folder, none in it, or two of one name.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one of class activation maps (npz or npy)")
    files: dict[str, Path] = {}
    for path in paths_below(folder):
        if path.suffix.lower() not in CAM_SUFFIXES or path.name.startswith("."):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise DataError(f"{path}: {name!r} has maps twice, also {files[name].name}; keep one of them")
        files[name] = path
    if not files:
        raise DataError(f"{folder}: holds no file of class activation maps ({', '.join(CAM_SUFFIXES)})")
    return files


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of an npz by name; nothing is unpickled.

    Raises:
        DataError: the file is missing, damaged, or no such file.
    """
    if not os.path.lexists(path):
        raise DataError(f"{path}: no such file; run the stage that writes it")
    require_ordinary(path, what="npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > MOST:
                raise ValueError(f"its arrays would take more than {MOST >> 20} MiB")
        with np.load(path, allow_pickle=False) as file:
            return {key: torch.from_numpy(file[key]) for key in file.files}
    except _BROKEN as error:  # RuntimeError: zip files of other versions, or encrypted
        raise DataError(
            f"{path}: not a readable npz ({error}); delete it and run the stage that wrote it again"
        ) from error


def require_range(path: Path, maps: Tensor) -> None:
    """Refuses maps that are no shares of their maximum: a threshold would mean something else to each.

    Raises:
        DataError: values above 1; those below 0, which published files have, are no pixels of the class.
    """
    highest = float(maps.max()) if maps.numel() else 0.0
    if highest > HIGHEST:
        raise DataError(f"{path}: maps with values up to {highest:.4g}; expected 0..1, each divided by its maximum")


def read_cams(path: Path, num_classes: int | None = None) -> tuple[Tensor, Tensor]:
    """The maps of one image, whoever wrote them.

    Args:
        path: an npz with ``classes`` (numbers from 1, 0 is the background) and ``maps``; or an npy with a dict, whose
            keys count the classes from 0 without the background (wseg, SEAM, PSA), or with an array of all classes,
            with or without the background first.
        num_classes: C, which an array needs to be understood.

    Returns:
        Classes int64 (K,) ascending, 1..; maps float32 (K, H, W).

    Raises:
        DataError: damaged, or something else.
    """
    if path.suffix.lower() == ".npz":
        arrays = read_npz(path)
        if not {"classes", "maps"} <= arrays.keys():
            raise DataError(f"{path}: holds {', '.join(arrays) or 'nothing'}; expected classes and maps")
        classes, maps = arrays["classes"].long(), arrays["maps"].float()
    else:
        classes, maps = _from_npy(path, num_classes)
    if maps.ndim != 3 or classes.shape != maps.shape[:1] or not bool(torch.isfinite(maps).all()):
        raise DataError(
            f"{path}: maps {tuple(maps.shape)} of {classes.numel()} classes; expected finite (K, H, W) of K classes"
        )
    if len(classes) and (int(classes.min()) < 1 or len(set(classes.tolist())) < len(classes)):
        raise DataError(
            f"{path}: maps of the classes {classes.tolist()}; expected different ones from 1 (0 is the rest)"
        )
    require_range(path, maps)
    order = classes.argsort()
    return classes[order], maps[order]


def _from_npy(path: Path, num_classes: int | None) -> tuple[Tensor, Tensor]:
    try:
        value = foreign.read(path)
    except WeightsError as error:
        raise DataError(str(error)) from None
    if isinstance(value, np.ndarray) and value.ndim == 3:
        if num_classes is None:
            raise DataError(f"{path}: an array of {len(value)} maps; name the classes (--classes)")
        if len(value) not in (num_classes - 1, num_classes):
            raise DataError(f"{path}: an array of {len(value)} maps; expected {num_classes - 1}, one per class")
        value = dict(enumerate(value[len(value) - num_classes + 1 :]))
    if not isinstance(value, dict):
        raise DataError(f"{path}: a {type(value).__name__}; expected a dict of maps by class, or an array of all maps")
    if not all(isinstance(key, int) and isinstance(map_of_class, np.ndarray) for key, map_of_class in value.items()):
        raise DataError(f"{path}: expected a dict of class numbers and maps")
    if len({map_of_class.shape for map_of_class in value.values()}) > 1:
        raise DataError(f"{path}: its maps have different sizes")
    if not value:
        raise DataError(f"{path}: an empty dict, from which the image's size cannot be known; leave the file out")
    maps = np.stack([np.asarray(map_of_class, np.float32) for map_of_class in value.values()])
    return torch.tensor([key + 1 for key in value]), torch.from_numpy(maps)
