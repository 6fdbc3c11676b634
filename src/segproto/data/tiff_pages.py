"""Slices of TIFF stacks, each an image of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segproto.data.archives import Member, Stat
from segproto.data.tiff_bands import TiffBands, is_tiff
from segproto.errors import DataError


@dataclass(frozen=True)
class Page:
    """One page of a TIFF; stands where a path of a picture is expected.

    Attributes:
        file: the TIFF.
        number: of the page, from 1.
    """

    file: Path | Member
    number: int

    suffix = ".page"

    def __str__(self) -> str:
        return f"{self.file} (page {self.number})"

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def stem(self) -> str:
        return f"{self.file.stem}_{self.number}"

    def stat(self) -> os.stat_result | Stat:
        """Of the whole file."""
        return self.file.stat()

    def labels(self) -> NDArray[Any]:
        """The numbers (H, W) of a mask.

        Raises:
            DataError: naming the page, if it holds colours or numbers that are not whole.
        """
        page = TiffBands(self.file, self.number)
        if page.count != 1 or page.dtype.kind not in "uib":
            raise DataError(f"{self}: {page.count} bands of {page.dtype}; a stack of masks holds class numbers")
        values: NDArray[Any] = page.read(0, 0, page.height, page.width)[0]
        return values if values.dtype == np.uint8 else values.astype(np.int64)


def pages_of(path: Path | Member) -> int:
    """How many pictures a file has; 1 if it is no TIFF (or is drawn, and no file at all)."""
    return TiffBands(path, 1).pages if isinstance(path, Path | Member) and is_tiff(path) else 1


def pages_in(path: Any, pages: int | Literal["all"] | None) -> list[Any]:
    """A file, or what ``data.pages`` takes of it if it is a stack: all its pages, or one."""
    if pages is None or (count := pages_of(path)) == 1:
        return [path]
    return [Page(path, number) for number in (range(1, count + 1) if pages == "all" else [pages])]


def by_page(
    names: Sequence[str], images: Mapping[str, Any], masks: Mapping[str, Any]
) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
    """Names, images and masks with each stack in the form of its pages, called ``NAME/page1`` and so on.

    Args:
        names: of images.
        images: files by name.
        masks: files by name.

    Raises:
        DataError: naming a stack whose mask has not as many pages.
    """
    pages: tuple[list[str], dict[str, Any], dict[str, Any]] = ([], {}, {})
    for name in names:
        count = pages_of(images[name]) if name in images else 1
        if count > 1 and name in masks and (own := pages_of(masks[name])) != count:
            raise DataError(
                f"{masks[name]}: the mask has {own} {'page' if own == 1 else 'pages'}, its image {count}; "
                "a stack is labelled by a stack of as many"
            )
        for number in range(1, count + 1):
            part = f"{name}/page{number}" if count > 1 else name
            pages[0].append(part)
            for files, target in ((images, pages[1]), (masks, pages[2])):
                if name in files:
                    target[part] = Page(files[name], number) if count > 1 else files[name]
    return pages
