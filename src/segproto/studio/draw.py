"""The pictures of the page: parts of images, layers over them, thumbnails and patches, as files for a browser."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segproto.data.build import build_dataset
from segproto.data.picture import Picture, to_pil
from segproto.data.pixels import to_colours
from segproto.errors import DataError, SegprotoError
from segproto.model.evidence import source_of
from segproto.model.explanation import Explanation, Region
from segproto.model.overlays import heat_colours, rank_colours
from segproto.model.patches import patch_picture, stored_patch
from segproto.report.pictures import Kind, encoded, outline, paint
from segproto.runs.settings import data_config
from segproto.studio.session import Edits
from segproto.studio.state import Side

SIDE = 1280  # longest side of a part that is shown
THUMB = 200
BAND = 256  # rows of a large image read at once
CONTEXT = 6  # times a patch's side around it


def shrunk(picture: Picture, region: Region, show: tuple[int, int, int], side: int) -> Image.Image:
    """A part of an image as colours, every k-th pixel where it is large; never held whole."""
    y0, x0, y1, x1 = region
    step = max(1, max(y1 - y0, x1 - x0) // (2 * side))
    rows = []
    for top in range(y0, y1, BAND * step):
        bottom = min(y1, top + BAND * step)
        rows.append(to_colours(picture.read(top, x0, bottom, x1), show)[:, ::step, ::step])
    return to_pil(torch.cat(rows, 1))


def photo(side: Side, key: str, region: Region, longest: int = SIDE) -> tuple[bytes, Kind]:
    """A part of an image."""
    show = side.model.encoder.pixels.show
    return encoded(shrunk(side.picture(key), region, show, longest), "jpeg", longest), "jpeg"


def layer(side: Side, name: str, key: str, region: Region, edits: Edits) -> tuple[bytes, Kind]:
    """What lies over a part of an image.

    Args:
        side: whose answer.
        name: ``photo``, ``truth`` or one of ``LAYERS``.
        key: of the image.
        region: of it.
        edits: of the model.

    Raises:
        DataError: no such layer.
    """
    if name == "photo":
        return photo(side, key, region)
    if name == "truth":
        mask = side.brought(key).mask
        if mask is None:
            raise DataError("the truth of this image is unknown")
        y0, x0, y1, x1 = region
        return transparent(paint(mask[y0:y1, x0:x1], side.model.classes.colours))
    if name not in LAYERS:
        raise DataError(f"{name!r} is no layer")
    pixels = LAYERS[name](side.explanation(key, region, edits))
    return (encoded(to_pil(pixels), "jpeg", SIDE), "jpeg") if name == "uncertainty" else transparent(pixels)


def winners(explanation: Explanation) -> Tensor:
    """The prototype (black box: channel) that decides each pixel, in colours: uint8 (3, h, w)."""
    winner = explanation.winning_prototype().long()
    table = torch.zeros(int(winner.max()) + 1, 3, dtype=torch.uint8)
    for label, colour in rank_colours(winner).items():
        table[label] = torch.tensor(colour, dtype=torch.uint8)
    return table[winner].permute(2, 0, 1)


LAYERS: dict[str, Callable[[Explanation], Tensor]] = {
    "prediction": lambda e: paint(e.prediction, e.segmenter.classes.colours),
    "edges": lambda e: outline(e.prediction),
    "runner": lambda e: paint(e.runner_up, e.segmenter.classes.colours),
    "uncertainty": lambda e: heat_colours(1 - e.confidence).round().to(torch.uint8),
    "winner": winners,
}


def transparent(pixels: Tensor) -> tuple[bytes, Kind]:
    """A PNG, made fast."""
    return encoded(to_pil(pixels), "png", SIDE, small=False), "png"


def thumb(side: Side, key: str) -> tuple[bytes, Kind]:
    """A small picture of an image."""
    height, width = side.size(key)
    return photo(side, key, (0, 0, height, width), THUMB)


def patch(side: Side, prototype: int, number: int = 0) -> tuple[bytes, Kind]:
    """A prototype's training patch, as it is stored; of several the first, or the one of that number.

    Raises:
        DataError: there is no picture of it.
    """
    source = source_of(side.model, prototype)
    several = () if source is None else (source, *source.also)
    picture = stored_patch(side.model, several[number]) if 0 <= number < len(several) else None
    if picture is None:
        raise DataError(f"prototype {prototype} has no picture of its training patch")
    return encoded(picture, "jpeg"), "jpeg"


def context(side: Side, prototype: int) -> tuple[bytes, Kind]:
    """The training image around a prototype's patch.

    Raises:
        DataError: where it came from is unknown, or the training images are no longer there.
    """
    source = source_of(side.model, prototype)
    if source is None:
        raise DataError(f"where prototype {prototype} came from is unknown")
    try:
        dataset = build_dataset(data_config(side.target, {}, side.data_overrides), "train")
    except SegprotoError as error:
        raise DataError(f"the training images are not there to show more of it: {error.args[0]}") from error
    if source.image not in dataset.names:
        raise DataError(f"{source.image} is not among the training images")
    sample = dataset[list(dataset.names).index(source.image)]
    return encoded(around(sample.colours, source.box), "jpeg", 480), "jpeg"


def around(image: Tensor, box: tuple[int, int, int, int]) -> Image.Image:
    """The part of an image around a box, which is framed."""
    height, width = image.shape[-2:]
    margin = CONTEXT * max(box[2] - box[0], box[3] - box[1]) // 2
    y0, x0 = max(0, box[0] - margin), max(0, box[1] - margin)
    y1, x1 = min(height, box[2] + margin), min(width, box[3] + margin)
    crop = to_pil(image[:, y0:y1, x0:x1])
    factor = max(1, 480 // max(crop.size))
    crop = crop.resize((crop.width * factor, crop.height * factor), Image.Resampling.BICUBIC)
    pixels = np.array(crop)
    top, left, bottom, right = ((v * factor) for v in (box[0] - y0, box[1] - x0, box[2] - y0, box[3] - x0))
    for inset, colour in ((0, 0), (1, 255), (2, 255), (3, 0)):
        a, b, c, d = top + inset, left + inset, bottom - 1 - inset, right - 1 - inset
        if a < c and b < d:
            pixels[[a, c], b : d + 1] = colour
            pixels[a : c + 1, [b, d]] = colour
    return Image.fromarray(pixels)


def fire(side: Side, index: int, box: tuple[int, int, int, int]) -> tuple[bytes, Kind]:
    """A patch of a validation image with its surroundings."""
    picture = side.picture(str(index))
    image = to_colours(picture.read(0, 0, picture.height, picture.width), side.model.encoder.pixels.show)
    return encoded(patch_picture(image, box), "jpeg"), "jpeg"
