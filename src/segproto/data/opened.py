"""A data set as a person looks at it: images with their masks, counts, pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from segproto.data.base import ClassTable, SegmentationDataset
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.data.overlay import Shown, beside, colour_labels
from segproto.data.pixels import to_colours
from segproto.errors import ConfigError, DataError
from segproto.files.keys import explain_error


@dataclass(frozen=True, repr=False)
class LabelledImage:
    """One image with its mask; notebooks show both.

    Attributes:
        image: pixels (bands, H, W).
        mask: (H, W) classes 0..C-1, 255 = void.
        name: in the data set.
        classes: names and colours.
        picture: the image as uint8 (3, H, W), RGB.
    """

    image: Tensor
    mask: Tensor
    name: str
    classes: ClassTable
    picture: Tensor

    def overlay(self) -> Shown:
        """The mask over the image."""
        colours = dict(enumerate(self.classes.colours))
        return Shown(colour_labels(self.picture, self.mask, colours), f"mask over {self.name}")

    def _repr_png_(self) -> bytes:
        return Shown(beside(self.picture, self.overlay().pixels))._repr_png_()

    def __repr__(self) -> str:
        height, width = self.mask.shape
        present = [name for c, name in enumerate(self.classes.names) if bool((self.mask == c).any())]
        return f"<{self.name}, {width} x {height} pixels: {', '.join(present[:8]) or 'void'}>"


class OpenedData:
    """The images and masks of one split.

    Args:
        dataset: the data set.
        config: its settings.

    Attributes:
        dataset: as training reads it.
        classes: names and colours.
        names: of the images.
    """

    def __init__(self, dataset: SegmentationDataset, config: DataConfig) -> None:
        self.dataset, self.config = dataset, config
        self.classes, self.names = dataset.classes, tuple(dataset.names)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int | str) -> LabelledImage:
        """An image by its number or name.

        Raises:
            DataError: there is no such image, or it cannot be read.
        """
        if isinstance(index, str):
            if index not in self.names:
                raise DataError(f"no image is named {index!r}, for example {self.names[0]!r}")
            index = self.names.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index}: there are {len(self)}")  # what ends a loop over the images
        sample = self.dataset[index % len(self)]
        picture = to_colours(sample.image, self.config.pixel_rule.show)
        return LabelledImage(sample.image, sample.mask, sample.name, self.classes, picture)

    def __iter__(self) -> Iterator[LabelledImage]:
        return (self[index] for index in range(len(self)))

    def counts(self) -> dict[str, int]:
        """Pixels of each class, and of ``void``; reads every mask."""
        total = torch.zeros(max(256, self.classes.num_classes), dtype=torch.int64)
        for index in range(len(self)):
            total += torch.bincount(self.dataset[index].mask.flatten().long(), minlength=len(total))
        void, pixels = int(total[255]), total[: self.classes.num_classes].tolist()
        named = {name: n for c, (name, n) in enumerate(zip(self.classes.names, pixels, strict=True)) if c != 255}
        return {**named, "void": void}

    def __repr__(self) -> str:
        names = ", ".join(self.classes.names[:8]) + (", ..." if self.classes.num_classes > 8 else "")
        where = self.config.root or self.config.name
        return f"<{where}, {self.dataset.split}: {len(self)} images, {self.classes.num_classes} classes ({names})>"


def open_data(root: str | Path | None, split: str, settings: Mapping[str, Any]) -> OpenedData:
    """See :func:`segproto.data.open`."""
    given = {**settings, **({} if root is None else {"root": str(root)})}
    try:
        config = DataConfig.model_validate(given)
    except ValidationError as error:
        lines = [explain_error(item, given, DataConfig) for item in error.errors()]
        raise ConfigError(*dict.fromkeys(lines)) from None
    return OpenedData(build_dataset(config, split), config)
