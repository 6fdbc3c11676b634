"""What the stages leave on disk: compressed npz files of the classes an image has, and where they lie in a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from segproto.data.cams import read_npz
from segproto.errors import DataError

NPZ = ".npz"
CAMS = Path("stages/cams/maps")
SCORES = Path("stages/crf/scores")
MASKS = Path("masks")


def save_scores(tensors: dict[str, Tensor], path: Path) -> None:
    """Tensors as a compressed npz; floats with 16 bits."""
    arrays = {k: (v.half() if v.is_floating_point() else v).numpy() for k, v in tensors.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_scores(path: Path) -> dict[str, Tensor]:
    """What :func:`save_scores` wrote.

    Raises:
        DataError: the file is missing, damaged, or no such file.
    """
    found = read_npz(path)
    if "classes" not in found:
        raise DataError(f"{path}: holds {', '.join(found) or 'nothing'}; expected classes and maps")
    return found
