"""What each step of a run made of a few chosen images, kept on disk for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from segproto.data.base import Sample
from segproto.data.cams import read_npz
from segproto.data.subset import spread
from segproto.errors import ConfigError, DataError
from segproto.files import fresh, write_json
from segproto.files.documents import read_checked
from segproto.prototypes.labels import IGNORE_INDEX

INDEX = "steps.json"


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        key: of its picture in the files; not ``image`` or ``truth``.
        title: for people, in a few words.
        words: one sentence about what is done.
        kind: ``classes`` (uint8 or int16, 255 = undecided) or ``heat`` (0..1).
    """

    key: str
    title: str
    words: str
    kind: Literal["classes", "heat"]


class Index(BaseModel):
    """``steps.json``."""

    steps: list[Step]
    images: list[str]


def chosen_images(names: Sequence[str], shown: int | list[str]) -> list[int]:
    """Indices of the images to keep: named ones, or as many spread over all.

    Raises:
        ConfigError: a name that is not there.
    """
    if isinstance(shown, int):
        return spread(len(names), shown)
    for name in shown:
        if name not in names:
            raise ConfigError(f"stages.masks.shown: no training image is named {name!r}, for example {names[0]!r}")
    return [names.index(name) for name in shown]


def write_steps(folder: Path, sample: Sample, values: Mapping[str, Tensor]) -> None:
    """One image with its mask and the pictures by the keys of the steps, as ``folder/NAME.npz``."""
    arrays = {"image": sample.colours, "truth": sample.mask, **values}
    path = folder / f"{sample.name.replace('/', '__')}.npz"
    plain = {
        key: (value.half() if value.is_floating_point() else narrow(value)).cpu().numpy()
        for key, value in arrays.items()
    }
    with fresh(path, None) as file:
        np.savez_compressed(file, allow_pickle=False, **plain)


def narrow(values: Tensor) -> Tensor:
    """Classes in 8 bits where these hold them, else in 16: see :func:`segproto.data.base.label_dtype`."""
    return values.to(torch.uint8 if not values.numel() or int(values.max()) <= IGNORE_INDEX else torch.int16)


def write_index(folder: Path, steps: Sequence[Step], names: Sequence[str]) -> None:
    """The list of the steps and of the images, in order."""
    write_json(folder / INDEX, {"steps": [asdict(step) for step in steps], "images": list(names)}, None)


def read_steps(folder: Path) -> tuple[list[Step], dict[str, dict[str, Tensor]]]:
    """What :func:`write_index` and :func:`write_steps` left: the steps, and the pictures of each image.

    Raises:
        DataError: a damaged or missing file.
    """
    index = read_checked(folder / INDEX, Index, advice=f"remove {folder}")
    return index.steps, {name: read_pictures(folder, name, index.steps) for name in index.images}


def read_pictures(folder: Path, name: str, steps: Sequence[Step]) -> dict[str, Tensor]:
    """The pictures of one image.

    Raises:
        DataError: naming the file and the picture that is missing or none.
    """
    path = folder / f"{name.replace('/', '__')}.npz"
    arrays = read_npz(path)
    image = arrays.get("image", torch.empty(0))
    size = tuple(image.shape[1:])
    wanted = {"image": (3, *size), "truth": size, **{step.key: size for step in steps}}
    classes = {"image", "truth", *(step.key for step in steps if step.kind == "classes")}
    for key, shape in wanted.items():
        value = arrays.get(key)
        if value is None or len(size) != 2 or tuple(value.shape) != shape:
            what = "is not there" if value is None else f"has shape {tuple(value.shape)}"
            raise DataError(f"{path}: its array {key!r} {what}, expected {shape}; remove {folder}")
        if (key in classes) == value.is_floating_point() or not bool(value.float().isfinite().all()):
            raise DataError(f"{path}: its array {key!r} of {value.dtype} is no picture of its kind; remove {folder}")
    return arrays
