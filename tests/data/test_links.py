"""Folders that are links are read like others, each once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segproto.data.archives import Tree
from segproto.data.below import images_below
from segproto.data.cams import cam_files
from segproto.data.pairs import find_pairs
from segproto.data.unlabelled import ImageFolder
from segproto.errors import DataError
from segproto.evaluation.masks import mask_files


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two pairs and a map in a folder each, one of which lies elsewhere behind a link."""
    root, other = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (root / "images/a", root / "labels/a", other / "images", other / "labels"):
        folder.mkdir(parents=True)
        Image.new("L", (4, 4)).save(folder / "x.png")
        np.save(folder / "x.npy", np.zeros((1, 4, 4), np.float16))
    for folder in ("images", "labels"):
        (root / folder / "b").symlink_to(other / folder, target_is_directory=True)
    return root


READERS: list[Callable[[Path], Any]] = [
    lambda r: find_pairs(r / "images", r / "labels").images,
    lambda r: find_pairs(r / "images", r / "labels").masks,
    lambda r: ImageFolder(r / "images").names,
    lambda r: mask_files(r / "labels", "--gt"),
    lambda r: [path.relative_to(r / "images").with_suffix("").as_posix() for path in images_below(r / "images")],
    lambda r: cam_files(r / "images"),
    lambda r: Tree(r).files("images", ".png"),
]


@pytest.mark.parametrize("read", READERS)
def test_linked_folders_are_read_and_loops_refused(read: Callable[[Path], Any], data: Path) -> None:
    assert list(read(data)) == ["a/x", "b/x"]
    for folder in ("images", "labels"):
        (data / folder / "c").symlink_to(data / folder / "a", target_is_directory=True)
    with pytest.raises(DataError, match=r"is the same folder as .*/a; remove the link|is the same folder as .*/c;"):
        read(data)
    for folder in ("images", "labels"):
        (data / folder / "c").unlink()
        (data / folder / "a" / "up").symlink_to(data / folder, target_is_directory=True)
    with pytest.raises(DataError, match=r"a/up: links back to .*(images|labels); remove the link"):
        read(data)
