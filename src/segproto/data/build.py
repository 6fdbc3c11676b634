"""From a ``DataConfig`` to a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from segproto.data.base import SegmentationDataset
from segproto.data.config import DataConfig
from segproto.errors import DataError

SPLITS = ("train", "val")


def data_root(config: DataConfig) -> Path:
    """The data folder, checked.

    Raises:
        DataError: if it is not set, holds an unset variable or is no folder.
    """
    if config.root is None:
        raise DataError(f"data.root is not set: data.name={config.name} needs the folder of its files (data.root=DIR)")
    if "$" in str(config.root):
        raise DataError(f"data.root={config.root} holds an environment variable that is not set")
    if not config.root.is_dir():
        raise DataError(f"data.root={config.root} is not a folder; set data.root=DIR to where the files are")
    return config.root


def list_folder(config: DataConfig) -> Path | None:
    """Where lists of image names that a recipe gives lie: the data folder; None for generated data."""
    from segproto.data.published import published_root
    from segproto.data.published_sets import PUBLISHED

    return published_root(config, PUBLISHED[config.name]) if config.name in PUBLISHED else config.root


def _folder(config: DataConfig, split: str) -> SegmentationDataset:
    from segproto.data.folder import open_folder

    return open_folder(config, data_root(config), split)


def _images(config: DataConfig, split: str) -> SegmentationDataset:
    from segproto.data.unlabelled import ImageFolder

    root = data_root(config)
    return ImageFolder(root / config.images if (root / config.images).is_dir() else root, split)


def _scenes(config: DataConfig, split: str) -> SegmentationDataset:
    from segproto.data.scenes import ScenesDataset

    return ScenesDataset(config.scenes, split)


def _em(config: DataConfig, split: str) -> SegmentationDataset:
    from segproto.data.em import open_em

    return open_em(config, data_root(config), split)


def _camvid(config: DataConfig, split: str) -> SegmentationDataset:
    from segproto.data.camvid import open_camvid

    return open_camvid(config, data_root(config), split)


def _published(config: DataConfig, split: str) -> SegmentationDataset:
    from segproto.data.published import open_published
    from segproto.data.published_sets import PUBLISHED

    return open_published(config, split, PUBLISHED[config.name])


DATASETS: dict[str, Callable[[DataConfig, str], SegmentationDataset]] = {
    "folder": _folder,
    "images": _images,
    "scenes": _scenes,
    "em": _em,
    "camvid": _camvid,
    **dict.fromkeys(("cityscapes", "voc", "ade20k", "ade20k_full", "coco_stuff", "potsdam"), _published),
}


def build_dataset(config: DataConfig, split: str) -> SegmentationDataset:
    """The images and masks of one split, at native size, without augmentation.

    Args:
        config: the recipe's ``data`` section.
        split: ``train`` or ``val``.

    Raises:
        DataError: if files are missing or the split is empty.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r} is unknown: expected one of {', '.join(SPLITS)}")
    dataset = DATASETS[config.name](config, split)
    if len(dataset) == 0:
        raise DataError(f"the {split} split of data.name={config.name} in {config.root} is empty: check data.split")
    if config.merge:
        from segproto.data.merged import MergedClasses

        dataset = MergedClasses(dataset, config.merge)
    if config.rename:
        from segproto.data.merged import RenamedClasses

        dataset = RenamedClasses(dataset, config.rename)
    if config.protocol == "published":
        from segproto.data.square import CentreSquare

        return CentreSquare(dataset, config.square)
    return dataset
