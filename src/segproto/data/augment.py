"""The training transform, on image and mask together (Porta et al. 2025, published data pipeline).

One factor for both sides, sizes ``(int(h f), int(w f))``; bilinear image (half-pixel centres, no antialiasing, rounded
to 8 bits as OpenCV does), Pillow-nearest mask; padding (bottom, right) with the mean colour and void; a uniform crop; a
flip. Only the pixels of the crop are computed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.data.colour import jittered, shifted_hsv
from segproto.data.config import AugmentConfig
from segproto.data.pixels import levels as on_eight_bits
from segproto.data.pixels import like
from segproto.prototypes.labels import IGNORE_INDEX, nearest_table

Normalise = Callable[[Tensor], Tensor]
WHITE = {torch.uint8: 255, torch.uint16: 65535}


def bilinear_window(image: Tensor, size: tuple[int, int], window: tuple[int, int, int, int]) -> Tensor:
    """A window of the image resized bilinearly, as ``F.interpolate(align_corners=False)`` then a crop would give.

    Args:
        image: pixels (C, H, W), see :mod:`segproto.data.pixels`.
        size: (height, width) of the whole resized image.
        window: (top, left, height, width) within it.

    Returns:
        (C, height, width) of the same kind, rounded as it is.
    """
    top, left, height, width = window
    if size == tuple(image.shape[1:]):
        return image[:, top : top + height, left : left + width]
    y0, y1, wy = _taps(image.shape[1], size[0], top, height)
    x0, x1, wx = _taps(image.shape[2], size[1], left, width)
    rows = image[:, int(y0[0]) : int(y1[-1]) + 1].float()
    across = torch.lerp(rows.index_select(2, x0), rows.index_select(2, x1), wx)
    y0, y1 = y0 - y0[0], y1 - y0[0]
    out = torch.lerp(across.index_select(1, y0), across.index_select(1, y1), wy[:, None])
    if image.is_floating_point():
        return out
    return out.round_().clamp_(0, WHITE[image.dtype]).to(image.dtype)


def _taps(source: int, target: int, start: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    position = (torch.arange(start, start + length, dtype=torch.float64) + 0.5) * (source / target) - 0.5
    position = position.clamp_(0, source - 1)
    low = position.floor().long()
    return low, (low + 1).clamp_(max=source - 1), (position - low).float()


def bicubic_window(levels: Tensor, size: tuple[int, int], window: tuple[int, int, int, int]) -> Tensor:
    """A window of a map of amounts, resized bicubically as Pillow does (with antialiasing).

    Args:
        levels: (H, W), of 0..254.
        size: (height, width) of the whole resized map.
        window: (top, left, height, width) within it.

    Returns:
        int64 (height, width), rounded.
    """
    top, left, height, width = window
    if size != tuple(levels.shape):
        levels = F.interpolate(levels[None, None].float(), size=size, mode="bicubic", antialias=True)[0, 0]
        levels = levels.round_().clamp_(0, IGNORE_INDEX - 1)
    return levels[top : top + height, left : left + width].long()


def augment(
    image: Tensor,
    mask: Tensor,
    config: AugmentConfig,
    generator: torch.Generator,
    normalisation: Normalise,
    *,
    levels: bool = False,
) -> tuple[Tensor, Tensor]:
    """One random variant of an image and its mask.

    Args:
        image: pixels (N, H, W), see :mod:`segproto.data.pixels`.
        mask: uint8 (H, W), 255 = void.
        config: what may change.
        generator: the only source of randomness.
        normalisation: pixels (N, h, w) to float; its zero is the mean colour, used for padding.
        levels: the mask holds amounts 0..254, resized bicubically, instead of classes.

    Returns:
        float (N, h, w) and int64 (h, w), of the crop's size if there is one.
    """
    draw = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
    low, high = config.scale
    factor = low + (high - low) * draw[0]
    if config.long_side is not None:
        low_side, high_side = config.long_side
        factor = (low_side + int(draw[0] * (high_side - low_side + 1))) / max(image.shape[1:])
    more = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    root = (config.aspect[0] + (config.aspect[1] - config.aspect[0]) * more[0]) ** 0.5
    to_pixels = round if config.long_side is not None else int
    h, w = max(to_pixels(image.shape[1] * factor / root), 1), max(to_pixels(image.shape[2] * factor * root), 1)
    crop_h, crop_w = config.crop_size or (h, w)
    in_h, in_w = min(h, crop_h), min(w, crop_w)
    top, left = int(draw[1] * (h - in_h + 1)), int(draw[2] * (w - in_w + 1))
    if config.balance and not levels:
        top, left = balanced_corner(mask, (h, w), (in_h, in_w), (top, left), config.balance, generator)
    view = bilinear_window(image, (h, w), (top, left, in_h, in_w))
    if config.brightness:
        shift = int(more[1] * (2 * config.brightness + 1)) - config.brightness
        view = brightened(view, shift)
    part = normalisation(recoloured(view, config, generator))
    if levels:
        labels = bicubic_window(mask, (h, w), (top, left, in_h, in_w))
    else:
        rows = nearest_table(mask.shape[0], h)[top : top + in_h]
        columns = nearest_table(mask.shape[1], w)[left : left + in_w]
        labels = mask[rows][:, columns].long()
    room_y, room_x = crop_h - in_h, crop_w - in_w
    free = config.padding == "anywhere"  # an image smaller than the crop has not used its draw yet
    above, before = (int(d * (room + 1)) if free else 0 for d, room in zip(draw[1:3], (room_y, room_x), strict=True))
    padding = (before, room_x - before, above, room_y - above)
    if any(padding):
        labels = F.pad(labels, padding, value=IGNORE_INDEX)
        if config.outside == "black":
            black = normalisation(torch.zeros(3, 1, 1, dtype=torch.uint8))
            part = F.pad(part - black, padding) + black
        else:
            part = F.pad(part, padding)
    axes = []
    if config.flip and draw[3] < 0.5:
        axes.append(-1)
    if config.vertical_flip and draw[4] < 0.5:
        axes.append(-2)
    if axes:
        part, labels = part.flip(axes), labels.flip(axes)
    if config.rotate90:
        turns = int(draw[5] * 4)
        part, labels = part.rot90(turns, (-2, -1)), labels.rot90(turns, (-2, -1))
    return part.contiguous(), labels.contiguous()


def balanced_corner(
    mask: Tensor,
    size: tuple[int, int],
    crop: tuple[int, int],
    corner: tuple[int, int],
    share: float,
    generator: torch.Generator,
) -> tuple[int, int]:
    """The corner of a crop, with probability ``share`` one that holds a pixel of a class drawn evenly.

    Args:
        mask: (H, W) classes, 255 = void.
        size: (height, width) of the resized image.
        crop: (height, width) inside it.
        corner: (top, left) of the crop that may lie anywhere.
        share: 0..1.
        generator: of the draws.
    """
    draw = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    shown = torch.bincount(mask.flatten().long()).nonzero()[:, 0]
    classes = shown[shown != IGNORE_INDEX].tolist()
    if draw[0] >= share or not classes:
        return corner
    own = (mask == classes[int(draw[1] * len(classes))]).flatten().nonzero()[:, 0]
    pixel = int(own[int(draw[2] * len(own))])
    position = pixel // mask.shape[1], pixel % mask.shape[1]
    starts = []
    for at, source, target, inside, part in zip(position, mask.shape, size, crop, draw[3:], strict=True):
        centre = min(int((at + 0.5) * target / source), target - 1)
        low, high = max(0, centre - inside + 1), min(centre, target - inside)
        starts.append(low + int(part * (high - low + 1)))
    return starts[0], starts[1]


def brightened(image: Tensor, shift: int) -> Tensor:
    """Pixels with a number added, on the scale of 8 bits."""
    return like(on_eight_bits(image) + shift, image)


def recoloured(image: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Pixels (N, H, W) with the colours that ``jitter`` and ``hsv`` draw."""
    if any(config.jitter):
        draw = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        order = torch.randperm(4, generator=generator).tolist()
        image = jittered(image, config.jitter, draw, order)
    if config.hsv:
        draws = torch.rand(3, generator=generator, dtype=torch.float64)
        image = shifted_hsv(image, ((2 * draws - 1) * config.hsv).tolist())
    return image
