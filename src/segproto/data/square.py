"""The published protocol of the methods without labels: shorter side resized, then the centre square."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.data.base import Sample, SegmentationDataset
from segproto.data.derived import Derived
from segproto.data.pixels import levels, like


class CentreSquare(Derived):
    """The centre squares of another data set's images, resized as PriMaPs' release does it.

    Training images are resized with antialiasing and labels at pixel centres (Pillow's rules); validation images
    without antialiasing and labels at the upper left (torchvision's rules for tensors, as of 0.11).

    Args:
        dataset: the other data set.
        side: of the squares in pixels.
    """

    def __init__(self, dataset: SegmentationDataset, side: int) -> None:
        super().__init__(dataset)
        self.side = side

    def __getitem__(self, index: int) -> Sample:
        sample = self.whole[index]
        return sample._replace(image=self.resized(sample.image), mask=self.resized_labels(sample.mask))

    def parts(self, index: int) -> Tensor | None:
        parts = self.whole.parts(index)
        return None if parts is None else self.resized_labels(parts)

    def instances(self, index: int) -> Tensor | None:
        return None  # the published protocol has no scores of instances

    @property
    def instance_sizes(self) -> dict[str, float]:
        return {}

    @property
    def fingerprint(self) -> str:
        text = repr((self.whole.fingerprint, "centre square", self.side, self.split))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def resized(self, image: Tensor) -> Tensor:
        """Pixels (N, H, W) as (N, side, side)."""
        height, width, top, left = self._size_and_corner(image.shape[-2], image.shape[-1])
        full = F.interpolate(
            levels(image)[None],
            size=(height, width),
            mode="bilinear",
            align_corners=False,
            antialias=self.split == "train",
        )[0]
        part = full[:, top : top + self.side, left : left + self.side]
        return like(part, image)

    def resized_labels(self, mask: Tensor) -> Tensor:
        """Labels (H, W) of any integer type as (side, side)."""
        height, width, top, left = self._size_and_corner(mask.shape[-2], mask.shape[-1])
        shift = 0.5 if self.split == "train" else 0.0
        rows = nearest(mask.shape[-2], height, shift)[top : top + self.side]
        columns = nearest(mask.shape[-1], width, shift)[left : left + self.side]
        return mask[rows][:, columns]

    def _size_and_corner(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Size of the resized image, and the corner of its centre square."""
        short, long = min(height, width), max(height, width)
        longer = int(self.side * long / short)
        new = (self.side, longer) if height <= width else (longer, self.side)
        return *new, round((new[0] - self.side) / 2), round((new[1] - self.side) / 2)


def nearest(source: int, target: int, shift: float) -> Tensor:
    """Source index of each of ``target`` pixels: ``floor((i + shift) * source / target)``."""
    position = (torch.arange(target, dtype=torch.float64) + shift) * (source / target)
    return position.floor().long().clamp_(max=source - 1)
