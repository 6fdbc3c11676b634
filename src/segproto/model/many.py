"""``Segmenter.predict``: one image, several, a batch, or a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segproto.data.base import Sample
from segproto.data.below import images_below, without_masks
from segproto.data.tiff_pages import pages_in
from segproto.errors import ConfigError
from segproto.model.predict import Views, predict
from segproto.model.segmenter import Segmenter
from segproto.table import nearest

OPTIONS = ("max_pixels", *Views.__annotations__)


def predict_any(segmenter: Segmenter, image: Any, as_numpy: bool, options: Mapping[str, Any]) -> Any:
    """See :meth:`segproto.model.segmenter.Segmenter.predict`."""
    check_options("predict", options, OPTIONS)
    if isinstance(image, str | Path) and Path(image).is_dir():
        base = Path(image)
        files = without_masks(images_below(base), base, lambda line: None)
        return {file.relative_to(base).as_posix(): predict_any(segmenter, file, as_numpy, options) for file in files}
    if isinstance(image, list | tuple) and not isinstance(image, Sample):
        return [predict_any(segmenter, one, as_numpy, options) for one in image]
    if isinstance(image, str | Path) and segmenter.encoder.pixels.page == "all":
        image = pages_in(Path(image), "all")
        if len(image) > 1:
            return [predict_any(segmenter, page, as_numpy, options) for page in image]
        image = image[0]
    if isinstance(image, Tensor | np.ndarray) and image.ndim == 4:
        masks = torch.stack([predict(segmenter, one, **options) for one in image])
    else:
        masks = predict(segmenter, image, **options)
    return masks.numpy() if as_numpy else masks


def check_options(verb: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuses options that there are not, and values of the wrong type.

    Raises:
        ConfigError: naming the option and what was expected.
    """
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"{verb}({name}=...): is no option; {nearest(name, known)}")
        number = isinstance(value, int) and not isinstance(value, bool)
        expected = {
            "window": ("a whole number of pixels, or None", value is None or number),
            "max_pixels": ("a whole number of pixels", number),
            "overlap": ("a share 0..0.9", number or isinstance(value, float)),
            "scales": ("factors such as (0.75, 1, 1.25)", isinstance(value, list | tuple)),
            "flip": ("True or False", isinstance(value, bool)),
        }
        words, fits = expected.get(name, ("", True))
        if not fits:
            raise ConfigError(f"{verb}({name}={value!r}): expected {words}")
