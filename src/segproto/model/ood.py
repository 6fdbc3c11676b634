"""How unlike everything a model knows an image is, pixel by pixel: out-of-distribution scores.

Liu et al. 2020, "Energy-based Out-of-distribution Detection" (https://arxiv.org/abs/2010.03759); Hendrycks et al. 2022,
"Scaling Out-of-Distribution Detection for Real-World Settings" (the largest logit, https://arxiv.org/abs/1911.11132).
"""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from segproto.data.base import label_dtype
from segproto.data.images import MAX_PIXELS
from segproto.data.picture import ImageLike, MaskWriter, look_at
from segproto.model.head import Head
from segproto.model.predict import Views, logit_bands
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating

SCORES = ("prototype", "energy", "max_logit")


def score_names(head: Head) -> tuple[str, ...]:
    """The scores that a head has: without prototypes that are compared with features not ``prototype``."""
    compared = head.bank is not None and head.bank.compares != "strength"
    return SCORES if compared else SCORES[1:]


def unknown_scores(head: Head, features: Tensor) -> dict[str, Tensor]:
    """Features (B, F, h, w) to scores (B, 1, h, w) by name, high = like nothing known.

    ``prototype``: minus :meth:`segproto.model.head.Head.familiarity`, where prototypes are compared with features;
    ``energy``: ``-log sum_c exp(logit_c)``; ``max_logit``: minus the largest logit.
    """
    logits, familiarity = head.read_familiarity(features)
    x = logits.float()
    scores = {"energy": -x.logsumexp(1, keepdim=True), "max_logit": -x.amax(1, keepdim=True), "prototype": -familiarity}
    return {name: scores[name] for name in score_names(head)}


def scored_maps(segmenter: Segmenter, images: Tensor) -> Tensor:
    """Normalised images (B, 3, H, W) to (B, C + 2, h, w): logits, how familiar each cell is, and ones."""
    logits, best = segmenter.head.read_familiarity(segmenter.features(images))
    return torch.cat([logits.float(), best, torch.ones_like(best)], 1)


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
        (H, W) classes, and float32 (H, W) in -1..1: :meth:`segproto.model.head.Head.familiarity` (of a nonparametric
        model or a memory cosines), upsampled; low = like nothing in the training images.
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

    The score's gray is ``255 (1 - familiarity)``, at most 255: black = a prototype itself, white = nothing alike.
    """
    labels, familiarity = predict_scored(segmenter, image, max_pixels=max_pixels, **views)
    unlike = ((1 - familiarity).clamp(0, 1) * 255).round().to(torch.uint8)
    for path, rows, kind in ((mask, labels, "mask"), (score, unlike, "scores")):
        with MaskWriter(path, rows.shape[0], rows.shape[1], rows.dtype == torch.int16, kind) as writer:
            writer.write(rows)
