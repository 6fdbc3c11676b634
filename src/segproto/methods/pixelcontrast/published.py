"""Products of published runs or earlier ones, from which any stage can start: maps, scores after a CRF, masks.

Nothing in them is run.

PSA, SEAM, wseg and EPS store a pickled dict per image (``NAME.npy``) or a plain array; masks are PNG files.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from segproto import foreign
from segproto.data.base import Sample
from segproto.data.cams import require_range
from segproto.data.images import read_indices
from segproto.errors import DataError, WeightsError
from segproto.methods.pixelcontrast.products import NPZ, read_scores
from segproto.prototypes.labels import IGNORE_INDEX


def published_file(folder: Path, name: str, *suffixes: str) -> Path:
    """The file of an image, by its whole name or the last part of it.

    Raises:
        DataError: there is none.
    """
    for stem in (name, PurePosixPath(name).name):
        for suffix in suffixes:
            path = folder / f"{stem}{suffix}"
            if path.is_file():
                return path
    raise DataError(f"{folder / name}{suffixes[0]}: the published file of {name!r} is missing")


def read_own(path: Path, key: str, num_classes: int) -> dict[int, Tensor]:
    """Maps by class of one image, from an npz that a stage of another run wrote under ``key``.

    Raises:
        DataError: damaged, something else, or a class that is none.
    """
    values = read_scores(path)
    maps, classes = values.get(key), values["classes"].tolist()
    if maps is None or maps.ndim != 3 or len(maps) != len(classes):
        raise DataError(f"{path}: holds {', '.join(values)}; expected {key}, a map per class")
    if any(not 0 <= number < num_classes for number in classes):
        raise DataError(f"{path}: the classes {classes}; expected 0..{num_classes - 1}")
    return dict(zip(classes, maps.float(), strict=True))


def read_published(path: Path, num_classes: int, *, first: int, own: str) -> dict[int, Tensor]:
    """Maps by class of one image.

    Args:
        path: an npy file with a pickled dict ``{class: (H, W)}``, or with an array (K, H, W) of all classes; or an npz
            of a run.
        num_classes: C; class 0 is the background.
        first: which class the dict's key 0 is: 1 for CAMs, which leave the background out, 0 for scores after a CRF.
        own: what the maps are called in an npz of a run.

    Returns:
        float32 (H, W) by class, ascending.

    Raises:
        DataError: damaged, something else, a class that is none, maps of several sizes or not finite.
    """
    if path.suffix == NPZ:
        return read_own(path, own, num_classes)
    try:
        value = foreign.read(path)
    except WeightsError as error:
        raise DataError(str(error)) from error
    if isinstance(value, np.ndarray) and value.ndim == 3 and len(value) in (num_classes, num_classes - first):
        value = dict(enumerate(value[len(value) - num_classes + first :]))
    if not isinstance(value, dict) or not value or not all(isinstance(v, np.ndarray) for v in value.values()):
        expected = f"maps by class, or an array of {num_classes - first} maps"
        raise DataError(f"{path}: holds {_about(value)}; expected {expected}")
    for key in value:
        if not isinstance(key, int) or not 0 <= key < num_classes - first:
            raise DataError(f"{path}: the class {key!r}; expected 0..{num_classes - first - 1}")
    maps = {key + first: torch.from_numpy(np.asarray(value[key], np.float32)) for key in sorted(value)}
    if len({tuple(m.shape) for m in maps.values()}) > 1 or any(m.ndim != 2 for m in maps.values()):
        raise DataError(f"{path}: maps of sizes {sorted({tuple(m.shape) for m in maps.values()})}; expected one (H, W)")
    if not all(bool(torch.isfinite(m).all()) for m in maps.values()):
        raise DataError(f"{path}: maps with infinite values or none")
    return maps


def _about(value: object) -> str:
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def published_cams(folder: Path, sample: Sample, tags: list[int], num_classes: int) -> dict[str, Tensor]:
    """Published maps of an image as our own: ``classes`` (K,) uint8 and ``maps`` (K, H, W) in 0..1.

    Args:
        folder: of the files.
        sample: the image.
        tags: its classes, 1..C-1; of a file with all classes these are taken.
        num_classes: C.

    Raises:
        DataError: as :func:`read_published`; other classes than the tags', another size than the image's, or
            values above 1.
    """
    if not tags:  # of the background alone there is no map, and perhaps no file
        return {"classes": torch.zeros(0, dtype=torch.uint8), "maps": torch.zeros(0, *sample.image.shape[1:])}
    path = published_file(folder, sample.name, ".npy", NPZ)
    map_of = read_published(path, num_classes, first=1, own="maps")
    if missing := [c for c in tags if c not in map_of]:
        raise DataError(f"{path}: has the classes {list(map_of)}, the image's tags are {tags}; {missing[0]} is missing")
    maps = torch.stack([map_of[c] for c in tags])
    require_size(path, maps, sample)
    require_range(path, maps)
    return {"classes": torch.tensor(tags, dtype=torch.uint8), "maps": maps.clamp(0, 1)}


def published_scores(low: Path, high: Path, sample: Sample, classes: list[int], num_classes: int) -> dict[str, Tensor]:
    """Published scores after a CRF with a strong (``la``) and a weak (``ha``) background, as our own.

    Args:
        low: folder of the first; or of a run's own scores, which hold both.
        high: of the second, or the same.
        sample: the image.
        classes: its classes, 1..C-1.
        num_classes: C.

    Returns:
        ``classes`` (K+1,) with 0 first, ``low`` and ``high`` (K+1, H, W).

    Raises:
        DataError: as :func:`published_cams`.
    """
    wanted, maps = [0, *classes], []
    for folder, key in ((low, "low"), (high, "high")):
        path = published_file(folder, sample.name, ".npy", NPZ)
        map_of = read_published(path, num_classes, first=0, own=key)
        if missing := [c for c in wanted if c not in map_of]:
            raise DataError(f"{path}: has the classes {list(map_of)}, of {wanted} the class {missing[0]} is missing")
        maps.append(torch.stack([map_of[c] for c in wanted]))
        require_size(path, maps[-1], sample)
        require_range(path, maps[-1])
    return {"classes": torch.tensor(wanted, dtype=torch.uint8), "low": maps[0], "high": maps[1]}


def published_mask(folder: Path, sample: Sample, num_classes: int) -> Tensor:
    """A published mask, uint8 (H, W): a PNG of class numbers, or the best class of scores after a CRF (EPS).

    Raises:
        DataError: as :func:`read_published`; a class that is none; another size than the image's.
    """
    path = published_file(folder, sample.name, ".png", ".npy")
    if path.suffix == ".npy":
        map_of = read_published(path, num_classes, first=0, own="low")
        mask = torch.tensor(list(map_of))[torch.stack(list(map_of.values())).argmax(0)]
    else:
        mask = torch.from_numpy(read_indices(path))
    wrong = mask[(mask >= num_classes) & (mask != IGNORE_INDEX)]
    if len(wrong):
        raise DataError(f"{path}: the value {int(wrong[0])}; expected classes 0..{num_classes - 1}, or {IGNORE_INDEX}")
    require_size(path, mask, sample)
    return mask.to(torch.uint8)


def require_size(path: Path, maps: Tensor, sample: Sample) -> None:
    """Refuses maps (..., H, W) of another size than the image.

    Raises:
        DataError: naming both sizes.
    """
    if maps.shape[-2:] != sample.image.shape[-2:]:
        own, image = ("x".join(map(str, t.shape[:-3:-1])) for t in (maps, sample.image))
        raise DataError(f"{path}: is {own}, the image {sample.name!r} is {image} (width x height)")
