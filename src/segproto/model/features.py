"""Features of one image of a data set, from the image or from a cache."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from segproto.data.base import Sample, SegmentationDataset
from segproto.model.segmenter import Segmenter


class BackboneFeatures(Protocol):
    """What a feature cache offers: backbone features (D, h, w) of image ``index``, mirrored if asked."""

    def get(self, index: int, flipped: bool) -> Tensor: ...


@torch.no_grad()
def image_features(
    model: Segmenter, dataset: SegmentationDataset, index: int, cache: BackboneFeatures | None = None
) -> Tensor:
    """Squashed features (1, F, h, w) of an image at its native size, as the model in its present mode sees it."""
    return sample_features(model, None if cache is not None else dataset[index], index, cache)


@torch.no_grad()
def sample_features(
    model: Segmenter, sample: Sample | None, index: int, cache: BackboneFeatures | None = None
) -> Tensor:
    """The same of an image that was read; it is not looked at where there is a cache."""
    device = next(model.parameters()).device
    if cache is not None:
        return model.encoder.from_backbone(cache.get(index, False)[None].to(device))
    assert sample is not None
    image = model.encoder.normalisation(sample.image.to(device))
    return model.features(image[None])
