"""The published protocol's squares, against Pillow, torchvision and the index tables of docs/specs/primaps.md#input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from segproto.data.base import ClassTable, Sample, SegmentationDataset
from segproto.data.square import CentreSquare, nearest


class One(SegmentationDataset):
    """A smooth image whose mask counts rows or columns."""

    def __init__(self, height: int, width: int, split: str) -> None:
        rng = np.random.default_rng(0)
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        large = np.array(small.resize((width, height), Image.Resampling.BICUBIC))
        self.image = torch.from_numpy(large).permute(2, 0, 1)
        self.mask = (torch.arange(height)[:, None] * 7 + torch.arange(width)).to(torch.uint8)
        self.split, self.names, self.classes = split, ("one",), ClassTable(("a",), ((0, 0, 0),))

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.image, self.mask, "one")

    @property
    def fingerprint(self) -> str:
        return "one"


def test_index_tables_of_the_published_resizing() -> None:
    assert nearest(1024, 320, 0.0)[:6].tolist() == [0, 3, 6, 9, 12, 16]
    assert nearest(1024, 320, 0.5)[:6].tolist() == [1, 4, 8, 11, 14, 17]


@pytest.mark.parametrize("size", [(40, 90), (97, 51), (64, 64), (20, 33)])
def test_training_squares_are_pillows(size: tuple[int, int]) -> None:
    data = One(*size, "train")
    square = CentreSquare(data, 32)[0]
    crop = v2.Compose([v2.Resize(32), v2.CenterCrop(32)])
    picture = crop(Image.fromarray(data.image.permute(1, 2, 0).numpy()))
    theirs = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert float((square.image.float() - theirs.float()).abs().max()) <= 1
    labels = v2.Compose([v2.Resize(32, v2.InterpolationMode.NEAREST), v2.CenterCrop(32)])
    assert torch.equal(square.mask, torch.from_numpy(np.array(labels(Image.fromarray(data.mask.numpy())))))


@pytest.mark.parametrize("size", [(40, 90), (97, 51), (20, 33)])
def test_validation_squares_are_torchvisions_of_tensors(size: tuple[int, int]) -> None:
    data = One(*size, "val")
    square = CentreSquare(data, 32)[0]

    def crop(image: Tensor, mode: v2.InterpolationMode) -> Tensor:
        return v2.Compose([v2.Resize(32, mode, antialias=False), v2.CenterCrop(32)])(image)

    theirs = crop(data.image.float(), v2.InterpolationMode.BILINEAR)
    assert float((square.image.float() - theirs).abs().max()) <= 0.5001
    assert torch.equal(square.mask, crop(data.mask[None], v2.InterpolationMode.NEAREST)[0])


def test_other_squares_have_another_fingerprint() -> None:
    data = One(40, 50, "train")
    assert len({CentreSquare(data, side).fingerprint for side in (32, 48)} | {data.fingerprint}) == 3
