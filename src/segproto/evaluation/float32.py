"""How many pixels a network of mixed precision gives the class that float32 gives them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from segproto.data.base import SegmentationDataset
from segproto.evaluation.protocol import Protocol
from segproto.model.precision import Precision, autocast
from segproto.model.predict import predict
from segproto.model.segmenter import Segmenter

IMAGES, PIXELS = 16, 2**22  # 24 photographs of 480x360, two frames of Cityscapes: seconds even on a CPU


def float32_agreement(
    model: Segmenter, dataset: SegmentationDataset, precision: Precision, protocol: Protocol, images: int = IMAGES
) -> dict[str, Any]:
    """Compares the masks of a few images, evenly spread over a data set, in both precisions.

    Args:
        model: on its device; its modes are left as they were.
        dataset: images at native size; their labels do not count.
        precision: to compare with float32.
        protocol: how the model looks at an image.
        images: at most so many are seen, of large ones fewer (:data:`PIXELS`); there is one at least.

    Returns:
        JSON-ready: ``precision``, ``share`` of the pixels whose class is the same (in [0, 1]), ``images``,
        ``pixels``.
    """
    count = min(images, len(dataset), max(1, PIXELS // dataset[0].mask.numel()))
    same = pixels = 0
    for i in range(count):
        sample = dataset[i * len(dataset) // count]
        views = protocol.views(*sample.image.shape[-2:])
        exact = predict(model, sample, **views)
        with autocast(model, precision):
            mixed = predict(model, sample, **views)
        same += int((mixed == exact).sum())
        pixels += exact.numel()
    return {"precision": precision, "share": same / pixels, "images": count, "pixels": pixels}


def agreement_words(card: Mapping[str, Any]) -> str:
    """One line about what :func:`float32_agreement` found, by a model's card; empty if that does not say.

    The share is rounded down: 100 % are all pixels.
    """
    match card.get("float32_agreement"):
        case {"share": float(share), "images": int(images)} if 0 <= share <= 1:
            percentage = math.floor(1e4 * share) / 100
            return f"{percentage:.2f} % of the pixels of {images} validation images have the class of float32"
    return ""
