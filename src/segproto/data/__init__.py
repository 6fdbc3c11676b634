"""Data sets, transforms, loaders; :func:`open` looks at one from Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segproto.data.opened import OpenedData


def open(root: str | Path | None = None, split: str = "train", **settings: Any) -> OpenedData:
    """Opens the images and masks of a data set, to look at them.

    Args:
        root: the data folder; generated data need none.
        split: ``train`` or ``val``.
        settings: of the recipe's ``data`` section, as in ``name="scenes"``, ``label_suffix="_mask"``.

    Raises:
        SegprotoError: an unknown setting (the nearest is named), or missing files.

    Examples:
        >>> import segproto
        >>> scenes = segproto.data.open(name="scenes")
        >>> scenes[0].mask.shape == scenes[0].image.shape[1:]
        True
    """
    from segproto.data.opened import open_data

    return open_data(root, split, settings)
