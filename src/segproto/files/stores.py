"""Arrays in zarr stores, by the extra ``zarr``: written by rows from the top, never held whole.

The format is zarr's second, which zarr 2 and 3 read, and what is built on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.files.extras import package_of
from segproto.files.marks import mark, require_folder
from segproto.files.writing import fresh_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HOLDS = (".zarray", ".zattrs", "[0-9]*.[0-9]*.[0-9]*")  # metadata, and a file per chunk
CHUNK = (256, 512)  # rows and columns


def require_store(path: Path, kind: str) -> None:
    """Sees that a store may be written: nothing is there, or an earlier one of ours of the same kind.

    Raises:
        ConfigError: something else is there.
    """
    require_folder(path, HOLDS, lambda folder: is_store(folder, kind))


def is_store(folder: Path, kind: str) -> bool:
    """Whether a folder is a store with our mark."""
    try:
        return bool(json.loads((folder / ".zattrs").read_bytes())["made_by"] == mark(kind))
    except (OSError, ValueError, LookupError, TypeError):
        return False


@contextmanager
def store_rows(
    path: Path, shape: tuple[int, int, int], dtype: str, kind: str, words: Mapping[str, Any], axes: Sequence[str]
) -> Iterator[Callable[[NDArray[np.generic]], None]]:
    """Something to call with rows (R, W, C) from the first to the last; the store gets its name once it is whole.

    Args:
        path: the store, a folder.
        shape: (H, W, C) of the array.
        dtype: of its values, as ``float16``.
        kind: the mark it bears, see :mod:`segproto.files`.
        words: attributes of the array.
        axes: names of the three dimensions, where xarray looks for them.

    Raises:
        ConfigError: the extra ``zarr`` is missing, or something else is at ``path``.
    """
    import numpy as np

    zarr = package_of("zarr", "zarr", f"{path}: writing a zarr store")
    second = {} if zarr.__version__.startswith("2.") else {"zarr_format": 2}
    chunks = (*(min(pair) for pair in zip(shape, CHUNK, strict=False)), shape[2])
    with fresh_folder(path, HOLDS, lambda folder: is_store(folder, kind)) as part:
        array = zarr.open_array(str(part), mode="w-", shape=shape, chunks=chunks, dtype=dtype, fill_value=0, **second)
        array.attrs.update({"made_by": mark(kind), "_ARRAY_DIMENSIONS": list(axes), **words})
        block = np.empty((chunks[0], *shape[1:]), dtype)  # one and the same for all chunks
        done = 0

        def write(rows: NDArray[np.generic]) -> None:
            nonlocal done
            while len(rows):
                place = done % len(block)
                taken = rows[: len(block) - place]
                stop = place + len(taken)
                block[place:stop] = taken
                done, rows = done + len(taken), rows[len(taken) :]
                if stop == len(block) or done == shape[0]:
                    array[done - stop : done] = block[:stop]

        yield write
        if done < shape[0]:
            raise ValueError(f"{path}: {shape[0] - done} rows were not written")
