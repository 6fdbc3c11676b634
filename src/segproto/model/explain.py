"""The verb behind ``explain``: an image, or a part of it, as the model sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from segproto.data.images import MAX_PIXELS
from segproto.data.picture import ImageLike, Picture, look_at
from segproto.data.pixels import to_colours
from segproto.errors import ConfigError, DataError
from segproto.model.explanation import Explanation, Region
from segproto.model.field import Field
from segproto.model.predict import seen_size, whole_pixels
from segproto.model.segmenter import Segmenter
from segproto.model.windows import ALIGN, evaluating

CONTEXT = 256  # pixels seen around a region of a large image


def explain(
    segmenter: Segmenter, image: ImageLike, *, region: Sequence[int] | None = None, max_pixels: int = MAX_PIXELS
) -> Explanation:
    """The evidence for each pixel of an image, or of a part of it.

    Args:
        segmenter: the model, on any device; its modes are left as they were.
        image: see :func:`segproto.data.picture.look_at`.
        region: (y0, x0, y1, x1) in pixels, the last row and column excluded. Images too large to be seen at once are
            then seen in a window around the region, so that cells near it may differ a little from ``predict``'s.
        max_pixels: larger images are refused.

    Raises:
        ConfigError: for a region outside the image.
        DataError: if the image cannot be read, or is too large to be explained without a (smaller) region.
    """
    return explained(segmenter, seen(segmenter, image, region=region, max_pixels=max_pixels), region)


@dataclass(frozen=True, eq=False)
class Seen:
    """What an encoder made of an image, or of a window of one; heads that differ can be asked about it.

    Attributes:
        picture: the image.
        window: (y0, x0, y1, x1) that was seen.
        features: (1, F, gh, gw) of that window, as a head receives them.
        looked_at: (height, width) that the window was resized to.
    """

    picture: Picture
    window: Region
    features: Tensor
    looked_at: tuple[int, int]


def seen(
    segmenter: Segmenter, image: ImageLike, *, region: Sequence[int] | None = None, max_pixels: int = MAX_PIXELS
) -> Seen:
    """The first half of :func:`explain`: what the encoder sees."""
    picture = look_at(image, max_pixels, segmenter.encoder.pixels)
    height, width = picture.height, picture.width
    whole = (0, 0, height, width)
    y0, x0, y1, x1 = _check_region(region, height, width) if region is not None else whole
    window = whole
    limit = whole_pixels(segmenter)
    if height * width > limit:
        if (y1 - y0) * (x1 - x0) > limit:
            raise DataError(
                f"{picture.name}: {height} x {width} pixels are too many to explain at once; "
                f"choose a part of at most {limit} pixels with --region y0,x0,y1,x1"
            )
        top, left = (max(0, v - CONTEXT) // ALIGN * ALIGN for v in (y0, x0))
        window = (top, left, min(height, y1 + CONTEXT), min(width, x1 + CONTEXT))
    pixels = picture.read(*window)
    device = next(segmenter.parameters()).device
    with evaluating(segmenter):
        inputs = segmenter.encoder.normalisation(pixels.to(device))[None]
        if segmenter.input_size is not None and window == whole:
            published = seen_size((height, width), segmenter.input_size)
            inputs = F.interpolate(inputs, size=published, mode="bilinear", align_corners=False)
        features = segmenter.features(inputs)
    return Seen(picture, window, features, (inputs.shape[-2], inputs.shape[-1]))


def explained(segmenter: Segmenter, looked: Seen, region: Sequence[int] | None = None) -> Explanation:
    """The second half of :func:`explain`: what the head says of it.

    Args:
        segmenter: whose encoder saw it; its head may be another one's.
        looked: of :func:`seen`.
        region: (y0, x0, y1, x1) in the image, within the window; None = the whole image.

    Raises:
        ConfigError: for a region outside the image.
    """
    picture, window = looked.picture, looked.window
    height, width = picture.height, picture.width
    y0, x0, y1, x1 = _check_region(region, height, width) if region is not None else (0, 0, height, width)
    with evaluating(segmenter):
        grid = segmenter.head(looked.features)[0].float()
        features = segmenter.head.cell_features(looked.features)
    size = (window[2] - window[0], window[3] - window[1])
    field = Field.over(grid, segmenter.encoder, size, looked.looked_at)
    shown = to_colours(picture.read(y0, x0, y1, x1), segmenter.encoder.pixels.show)
    inside = None if picture.inside is None else picture.inside(y0, x0, y1, x1)
    where = (y0, x0, y1, x1), (window[0], window[1])
    return Explanation(segmenter, picture.name, shown, *where, features, field, inside)


def _check_region(region: Sequence[int], height: int, width: int) -> Region:
    if isinstance(region, list | tuple) and len(region) == 4 and all(isinstance(v, int) for v in region):
        y0, x0, y1, x1 = region
        if 0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width:
            return y0, x0, y1, x1
    raise ConfigError(
        f"region {str(region).strip('()[]').replace(' ', '')}: expected --region y0,x0,y1,x1 with "
        f"0 <= y0 < y1 <= {height} and 0 <= x0 < x1 <= {width}"
    )
