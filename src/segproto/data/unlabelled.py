"""Images without masks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from segproto.data.base import ClassTable, Sample, SegmentationDataset, stamp_of
from segproto.data.kind import DataKind
from segproto.data.picture import read_pixels
from segproto.data.pixels import PLAIN, PixelRule
from segproto.data.roots import data_root
from segproto.data.suffixes import IMAGE_SUFFIXES, is_hidden, is_picture
from segproto.data.tiff_pages import by_page
from segproto.errors import DataError
from segproto.files.reading import require_text_name
from segproto.files.walking import paths_below
from segproto.prototypes.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from segproto.data.config import DataConfig


class ImageFolder(SegmentationDataset):
    """All images below a folder; their masks are void and their class table is empty.

    Args:
        root: the folder; or one image file.
        split: a name only: every split is all images.
        rule: how the files become pixels.

    Raises:
        DataError: no image there, or two that differ only in their suffix.
    """

    def __init__(self, root: Path, split: str = "train", rule: PixelRule = PLAIN) -> None:
        if not root.exists():
            raise DataError(f"{root}: no such file or folder")
        base = root if root.is_dir() else root.parent
        paths = paths_below(root) if root.is_dir() else [root]
        files = [require_text_name(p) for p in paths if is_picture(p) and not is_hidden(p.relative_to(base))]
        if not files:
            raise DataError(f"{root}: no image there ({', '.join(sorted(IMAGE_SUFFIXES))})")
        names = [path.relative_to(base).with_suffix("").as_posix() for path in files]
        by_name: dict[str, Any] = dict(zip(names, files, strict=True))
        if rule.page == "all" and len(by_name) == len(names):
            names, by_name, _ = by_page(names, by_name, {})
        self.names = tuple(names)
        self._files: list[Path] = [by_name[name] for name in names]
        twins = {name for name in self.names if self.names.count(name) > 1} if len(set(self.names)) < len(self) else ()
        if twins:
            raise DataError(f"{root}: two images are called {min(twins)!r} and differ only in their suffix; rename one")
        self.split, self.rule = split, rule
        self.classes = ClassTable((), ())

    def __getitem__(self, index: int) -> Sample:
        image = read_pixels(self._files[index], self.rule)[0]
        mask = torch.full(image.shape[1:], IGNORE_INDEX, dtype=torch.uint8)
        return Sample(image, mask, self.names[index], self.rule.show)

    def path(self, index: int) -> Path | None:
        return self._files[index]

    def stamp(self, index: int) -> str:
        return stamp_of(self._files[index])

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.rule.to_json()).encode() if self.rule != PLAIN else b"")
        for name, path in zip(self.names, self._files, strict=True):
            stat = path.stat()
            digest.update(repr((name, stat.st_size, stat.st_mtime_ns)).encode())
        return digest.hexdigest()[:16]


def open_images(config: DataConfig, split: str) -> ImageFolder:
    """The folder ``data.images`` of the root, or the root itself where there is no such folder."""
    root = data_root(config)
    folder = root / config.images if (root / config.images).is_dir() else root
    return ImageFolder(folder, split, config.pixel_rule)


IMAGES = DataKind(
    name="images",
    title="your own images, without masks (methods that need no labels)",
    open=open_images,
    reads=("bands",),
    masks="never",
)
