"""From a ``DataConfig`` to a data set."""

from __future__ import annotations

from pathlib import Path

from segproto.data.base import SegmentationDataset
from segproto.data.config import DataConfig
from segproto.data.published import published_root
from segproto.errors import DataError

SPLITS = ("train", "val")


def list_folder(config: DataConfig) -> Path | None:
    """Where lists of image names that a recipe gives lie: the data folder; None for generated data."""
    published = config.kind.published
    return config.root if published is None else published_root(config, published)


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
    dataset = config.kind.open(config, split)
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

        dataset = CentreSquare(dataset, config.square)
    if split == "train" and (config.fraction is not None or config.images_per_class is not None):
        from segproto.data.subset import few

        dataset = few(dataset, config.fraction, config.images_per_class, config.subset_seed)
    return dataset
