"""How unlike everything it knows an image is, pixel by pixel: the out-of-distribution score of nearest prototypes."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from segproto.data.base import label_dtype
from segproto.data.images import MAX_PIXELS
from segproto.data.picture import ImageLike, MaskWriter, look_at
from segproto.errors import ConfigError
from segproto.model.predict import Views, logit_bands
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating


def scored_maps(segmenter: Segmenter, images: Tensor) -> Tensor:
    """Normalised images (B, 3, H, W) to (B, C + 2, h, w): logits, how familiar each cell is, and ones.

    Raises:
        ConfigError: the model's head has no such score.
    """
    head = segmenter.head
    reading = head.read(segmenter.features(images))
    best = head.familiarity(reading)
    if best is None:
        raise ConfigError(f"out-of-distribution scores: a {head.kind} head has none; expected a nonparametric model")
    return torch.cat([reading.logits.float(), best, torch.ones_like(best)], 1)


def predict_scored(
    segmenter: Segmenter,
    image: ImageLike,
    *,
    max_pixels: int = MAX_PIXELS,
    **views: Unpack[Views],
) -> tuple[Tensor, Tensor]:
    """The class of every pixel, and how near the nearest of all prototypes is.

    Args: as :func:`segproto.model.predict.predict`.

    Returns:
        (H, W) classes, and float32 (H, W): cosines in -1..1, upsampled; low = like nothing in the training images.

    Raises:
        ConfigError: the model's head has no such score.
    """
    picture = look_at(image, max_pixels, segmenter.encoder.pixels)
    masks, scores = [], []
    with evaluating(segmenter):
        for maps in logit_bands(segmenter, picture, maps=lambda x: scored_maps(segmenter, x), **views):
            masks.append(maps[:-2].max(0)[1].to(label_dtype(len(maps) - 2)).cpu())
            scores.append((maps[-2] / maps[-1]).cpu())
    return torch.cat(masks), torch.cat(scores)


def predict_scored_to_png(
    segmenter: Segmenter,
    image: ImageLike,
    mask: Path,
    score: Path,
    *,
    max_pixels: int = MAX_PIXELS,
    **views: Unpack[Views],
) -> None:
    """Writes :func:`predict_scored` as two gray PNGs.

    The score's gray is ``255 (1 - cosine)``, at most 255: black = a prototype itself, white = nothing alike.
    """
    labels, cosine = predict_scored(segmenter, image, max_pixels=max_pixels, **views)
    unlike = ((1 - cosine).clamp(0, 1) * 255).round().to(torch.uint8)
    for path, rows, kind in ((mask, labels, "mask"), (score, unlike, "scores")):
        with MaskWriter(path, rows.shape[0], rows.shape[1], rows.dtype == torch.int16, kind) as writer:
            writer.write(rows)
