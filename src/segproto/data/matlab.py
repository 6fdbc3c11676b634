"""Label and image arrays in MATLAB files, as SBD, COCO-Stuff 10k and Potsdam come."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segproto.data.archives import ZipMember
from segproto.errors import DataError


def read_mat(path: Path | ZipMember, *keys: str) -> NDArray[Any]:
    """The array of the first of these keys that the file has; of SBD's ``GTcls`` the segmentation.

    Raises:
        DataError: naming the file: unreadable, or without such an array.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path.open_binary() if isinstance(path, ZipMember) else path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as a MATLAB file ({str(error).splitlines()[0]})") from error
    key = next((key for key in keys if key in content), None)
    if key is None:
        found = ", ".join(name for name in content if not name.startswith("__"))
        raise DataError(f"{path}: holds {found or 'nothing'}, expected {' or '.join(keys)}")
    value = content[key]
    if key == "GTcls":
        value = value[0, 0]["Segmentation"]
    value = np.asarray(value)
    if value.dtype.kind not in "uib" and not (value.dtype.kind == "f" and (value == np.floor(value)).all()):
        raise DataError(f"{path}: {key} holds {value.dtype}, expected whole numbers")
    if value.min(initial=0) >= 0 and value.max(initial=0) < 256:
        return value.astype(np.uint8)
    return value.astype(np.int64)
