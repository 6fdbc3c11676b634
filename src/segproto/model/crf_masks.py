"""Masks of a model before and after a dense CRF, as DeepLab is tested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from segproto.data.base import label_dtype
from segproto.data.picture import ImageLike, MaskWriter, look_at
from segproto.data.pixels import to_colours
from segproto.errors import ConfigError
from segproto.model.predict import WHOLE_PIXELS, predict_logits
from segproto.model.segmenter import Segmenter
from segproto.model.windows import Scale
from segproto.refine.crf import dense_crf, unary_from_probabilities
from segproto.refine.crf_settings import CRF_SETS, CrfSettings


def crf_settings(name: str | None) -> CrfSettings | None:
    """A published parameter set by its letter; None stays None.

    Raises:
        ConfigError: no such set.
    """
    if name is not None and name not in CRF_SETS:
        raise ConfigError(f"CRF {name}: expected one of {', '.join(CRF_SETS)} (DeepLab's: E)")
    return None if name is None else CRF_SETS[name]


def masks_with_crf(
    segmenter: Segmenter,
    image: ImageLike,
    settings: CrfSettings,
    *,
    scales: Sequence[Scale] | None = None,
    flip: bool = False,
) -> tuple[Tensor, Tensor]:
    """The class of every pixel, and that after a dense CRF on the probabilities of the mean logits.

    Args:
        segmenter: the model.
        image: small enough to be seen at once.
        settings: of the CRF.
        scales: logits are averaged over them; None as in :class:`segproto.model.predict.Views`.
        flip: also over the mirrored image.

    Returns:
        Two (H, W) on the CPU, as :func:`segproto.model.predict.predict` gives them.

    Raises:
        DataError: the image has more than ``WHOLE_PIXELS`` pixels.
    """
    rule = segmenter.encoder.pixels
    picture = look_at(image, WHOLE_PIXELS, rule)
    pixels = to_colours(picture.read(0, 0, picture.height, picture.width).cpu(), rule.show)
    logits = predict_logits(segmenter, image, scales=scales, flip=flip)
    after = dense_crf(
        pixels[None], unary_from_probabilities(segmenter.head.probabilities(logits, 0)[None]), settings, labels=True
    )[0]
    dtype = label_dtype(len(logits))
    return logits.max(0)[1].to(dtype), after.to(dtype)


def write_mask(mask: Tensor, file: Path) -> None:
    """A mask (H, W) as a gray PNG, of 16 bits where it holds more than 8."""
    (height, width), wide = mask.shape, mask.dtype == torch.int16
    with MaskWriter(file, height, width, wide) as writer:
        writer.write(mask)


def crf_folder(folder: Path) -> Path:
    """Where masks after a CRF lie beside those in ``folder``."""
    return folder.with_name(f"{folder.name}-crf")
