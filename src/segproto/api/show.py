"""The verb ``show``: a picture of a mask, an overlay or an explanation, for notebooks and files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segproto.errors import ConfigError

if TYPE_CHECKING:
    from segproto.data.overlay import Shown


def show(what: Any, mask: Any = None, *, classes: Any = None) -> Shown:
    """A picture that a notebook shows by itself, and that ``.save("x.png")`` writes.

    Args:
        what: an image (path, PIL, array, tensor), an explanation, an image of an opened data set, or a mask (H, W) of
            integers together with ``classes``.
        mask: of the image, drawn over it: (H, W) class indices, as ``model.predict`` gives them.
        classes: whose colours are used: a model, a data set or a class table; None = a safe palette.

    Raises:
        SegprotoError: what cannot be shown.

    Examples:
        >>> import segproto
        >>> model = segproto.load("runs/em")
        >>> picture = segproto.show("image.png", model.predict("image.png"), classes=model)
    """
    import numpy as np
    import torch

    from segproto.data.base import ClassTable
    from segproto.data.opened import LabelledImage
    from segproto.data.overlay import Shown, colour_labels
    from segproto.data.palette import default_colours
    from segproto.data.picture import look_at
    from segproto.data.pixels import to_colours
    from segproto.model.explanation import Explanation

    if isinstance(what, Explanation):
        return Shown(what.overlay(), f"prediction over {what.name}")
    if isinstance(what, LabelledImage):
        return what.overlay()
    table = getattr(classes, "classes", classes)
    if table is not None and not isinstance(table, ClassTable):
        raise ConfigError(f"show(classes={type(classes).__name__}): expected a model, a data set or a class table")
    alone = mask is None and classes is not None
    labels = None if mask is None and not alone else torch.as_tensor(np.asarray(what if alone else mask)).long()
    picture = None if alone else look_at(what)
    if picture is None:
        assert labels is not None
        pixels = torch.full((3, *labels.shape), 255, dtype=torch.uint8)
    else:
        pixels = to_colours(picture.read(0, 0, picture.height, picture.width))
    if labels is None:
        return Shown(pixels, "image")
    if labels.ndim != 2 or labels.shape != pixels.shape[1:]:
        raise ConfigError(
            f"show: a mask of shape {tuple(labels.shape)} for an image of {tuple(pixels.shape[1:])} pixels"
        )
    known = [value for value in labels.flatten().bincount().nonzero().flatten().tolist() if value != 255]
    colours = table.colours if table is not None else default_colours(max(known, default=0) + 1)
    strength = 1.0 if alone else 0.6
    return Shown(
        colour_labels(pixels, labels, dict(enumerate(colours)), strength), "mask" if alone else "mask over image"
    )
