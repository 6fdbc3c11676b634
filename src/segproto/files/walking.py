"""Every file below a folder, also below folders that are links."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from segproto.errors import DataError


def files_below(folder: str | Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All files, in no order: what leads to each (empty, or ``a/b/``) and its entry.

    Raises:
        DataError: a folder is there twice, by a link to it or to one above, which would count its files twice.
    """
    yield from _below(str(folder), "", {})


def _below(folder: str, above: str, seen: dict[tuple[int, int], str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    status = os.stat(folder)
    first = seen.setdefault((status.st_dev, status.st_ino), folder)
    if first != folder:
        where = "links back to" if folder.startswith(f"{first}{os.sep}") else "is the same folder as"
        raise DataError(f"{folder}: {where} {first}; remove the link, so that each file is there once")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _below(entry.path, f"{above}{entry.name}/", seen)
            else:
                yield above, entry


def paths_below(folder: Path) -> list[Path]:
    """The same as sorted paths."""
    return sorted(Path(entry.path) for _, entry in files_below(folder))
