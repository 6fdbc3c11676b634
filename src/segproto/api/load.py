"""The verb ``load``: a saved model, without training or methods."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from segproto.model.segmenter import Segmenter

PathLike = str | Path


def load(path: PathLike, *, stage: str | None = None, module: nn.Module | None = None) -> Segmenter:
    """Loads a trained model, on the CPU and ready to predict.

    Args:
        path: a run folder (its ``model/``) or a model folder.
        stage: of a run: the model this stage left (``stages/<stage>/model``) instead of the last.
        module: of a model that :func:`posthoc` made of a network of your own: that network again, whatever its weights.

    Raises:
        WeightsError: no complete model there.

    Examples:
        >>> import segproto
        >>> model = segproto.load("runs/em")
        >>> mask = model.predict("image.png")
        >>> mask.dtype, mask.ndim
        (torch.uint8, 2)
    """
    from segproto.encoders.network import given
    from segproto.model.segmenter import Segmenter
    from segproto.runs.folder import model_folder

    if module is None:
        return Segmenter.load(model_folder(Path(path), stage))
    with given(module):
        return Segmenter.load(model_folder(Path(path), stage))
