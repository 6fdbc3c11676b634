"""The verb behind ``explain``: an image, or a part of it, as the model sees it."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F

from segproto.data.images import MAX_PIXELS
from segproto.data.picture import ImageLike, look_at
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
    picture = look_at(image, max_pixels, segmenter.encoder.pixels)
    height, width = picture.height, picture.width
    whole = (0, 0, height, width)
    y0, x0, y1, x1 = _check_region(region, height, width) if region is not None else whole
    seen = whole
    limit = whole_pixels(segmenter)
    if height * width > limit:
        if (y1 - y0) * (x1 - x0) > limit:
            raise DataError(
                f"{picture.name}: {height} x {width} pixels are too many to explain at once; "
                f"choose a part of at most {limit} pixels with --region y0,x0,y1,x1"
            )
        top, left = (max(0, v - CONTEXT) // ALIGN * ALIGN for v in (y0, x0))
        seen = (top, left, min(height, y1 + CONTEXT), min(width, x1 + CONTEXT))
    pixels = picture.read(*seen)
    device = next(segmenter.parameters()).device
    with evaluating(segmenter):
        inputs = segmenter.encoder.normalisation(pixels.to(device))[None]
        if segmenter.input_size is not None and seen == whole:
            published = seen_size((height, width), segmenter.input_size)
            inputs = F.interpolate(inputs, size=published, mode="bilinear", align_corners=False)
        features = segmenter.features(inputs)
        grid = segmenter.head(features)[0].float()
        features = segmenter.head.cell_features(features)
    size = (seen[2] - seen[0], seen[3] - seen[1])
    looked_at = (inputs.shape[-2], inputs.shape[-1])
    field = Field.over(grid, segmenter.encoder, size, looked_at)
    shown = pixels[:, y0 - seen[0] : y1 - seen[0], x0 - seen[1] : x1 - seen[1]]
    shown = to_colours(shown, segmenter.encoder.pixels.show)
    inside = None if picture.inside is None else picture.inside(y0, x0, y1, x1)
    where = (y0, x0, y1, x1), (seen[0], seen[1])
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
