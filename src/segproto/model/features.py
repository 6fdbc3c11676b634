"""Features of one image of a data set, from the image or from a cache."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.model.segmenter import Segmenter


class BackboneFeatures(Protocol):
    """What a feature cache offers: backbone features (D, h, w) of image ``index``, mirrored if asked."""

    def get(self, index: int, flipped: bool) -> Tensor: ...


@torch.no_grad()
def image_features(
    model: Segmenter, dataset: SegmentationDataset, index: int, cache: BackboneFeatures | None = None
) -> Tensor:
    """Squashed features (1, F, h, w) of an image at its native size, as the model in its present mode sees it."""
    device = next(model.parameters()).device
    if cache is not None:
        return model.encoder.from_backbone(cache.get(index, False)[None].to(device))
    image = model.encoder.normalisation(dataset[index].image.to(device))
    return model.features(image[None])
