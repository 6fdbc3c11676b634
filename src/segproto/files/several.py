"""Many files that appear together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segproto.files.marks import require
from segproto.files.writing import ADVICE, disk_errors, scratch, sync_tree


@contextmanager
def fresh_files(folder: Path, kind: str, advice: str = ADVICE) -> Iterator[Path]:
    """A folder to fill, whose files go to their places in ``folder`` once all are complete; after an error none does.

    Args:
        folder: may hold other files, which stay.
        kind: of all files: only such with its mark are replaced, and the caller writes the mark.
        advice: see :func:`disk_errors`.

    Raises:
        ConfigError: something else is there; nothing is moved.
        SegprotoError: see :func:`disk_errors`.
    """
    folder = Path(os.path.realpath(folder))
    with disk_errors(folder, advice), scratch(folder.parent) as part:
        yield part
        sync_tree(part)
        places = {file: folder / file.relative_to(part) for file in sorted(part.rglob("*")) if file.is_file()}
        for place in places.values():
            require(place, kind)
        for file, place in places.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)
