"""The images below a folder, without the masks that lie there, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from segproto.data.layouts.words import IMAGE, MASK, role_of
from segproto.data.suffixes import IMAGE_SUFFIXES, is_hidden
from segproto.errors import DataError
from segproto.files.marks import marked
from segproto.files.walking import paths_below

MADE = ("mask", "scores", "picture", "probabilities")  # marks of what predict writes
WRITTEN = (".png", ".tif")


def images_below(path: Path, tell: Callable[[str], object] = lambda line: None) -> list[Path]:
    """The image itself, or all images below a folder, sorted; without hidden ones and masks that segproto made.

    Args:
        path: a file or a folder.
        tell: is told what was left out, in a line.

    Raises:
        DataError: no image there.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; expected an image or a folder of images")
    pictures = [p for p in paths_below(path) if p.suffix.lower() in IMAGE_SUFFIXES]
    hidden = [p for p in pictures if is_hidden(p.relative_to(path))]
    own = [p for p in pictures if p.suffix in WRITTEN and p.is_file() and any(marked(p, kind) for kind in MADE)]
    left_out = {"hidden": hidden, "made by segproto": own}
    if words := [f"{len(some)} {what} ({some[0]})" for what, some in left_out.items() if some]:
        tell(f"{path}: images left out: {', '.join(words)}")
    without = {*hidden, *own}
    images = [p for p in pictures if p not in without]
    if not images:
        raise DataError(f"{path}: no image there ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return images


def without_masks(files: list[Path], base: Path, tell: Callable[[str], object]) -> list[Path]:
    """The files that lie in no folder of masks, such as ``labels/``, where others lie in one of images."""

    def below(file: Path, role: str) -> str | None:
        return next((part for part in file.relative_to(base).parts[:-1] if role_of(part) == role), None)

    folders = {file: below(file, MASK) for file in files}
    images = [file for file in files if folders[file] is None]
    if len(images) == len(files) or not any(below(file, IMAGE) for file in images):
        return files
    names = ", ".join(sorted({name for name in folders.values() if name is not None}))
    tell(f"left out: {len(files) - len(images)} pictures in {names} (masks, by the folder's name)")
    return images
