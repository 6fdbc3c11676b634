"""Random colours of training images: torchvision's ColorJitter, and shifts in OpenCV's HSV."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segproto.data.pixels import levels, like

GRAY = (0.299, 0.587, 0.114)


def jittered(image: Tensor, strength: Sequence[float], draw: Sequence[float], order: Sequence[int]) -> Tensor:
    """Brightness, contrast, saturation and hue changed one after the other, as ColorJitter does.

    Args:
        image: pixels (3, H, W), see :mod:`segproto.data.pixels`; without saturation and hue also of other numbers of
            bands, where gray is the mean of all.
        strength: of the four; the first three are factors in 1 - s .. 1 + s, hue turns by -s .. s of the circle.
        draw: a number in 0..1 for each.
        order: 0..3 in any order.

    Returns:
        Pixels of the same kind.
    """
    x = levels(image) / 255
    weights = torch.tensor(GRAY, device=x.device) if len(x) == 3 else torch.full((len(x),), 1 / len(x), device=x.device)
    for kind in order:
        s, change = strength[kind], (2 * draw[kind] - 1) * strength[kind]
        if not s:
            continue
        if kind == 3:
            hue, saturation, value = to_hsv(x)
            x = from_hsv((hue + change) % 1, saturation, value)
            continue
        if kind == 0:
            base = torch.zeros_like(x)
        else:
            base = torch.tensordot(weights, x, 1)[None]
            base = base.mean() if kind == 1 else base
        x = ((1 + change) * x - change * base).clamp(0, 1)
    return like(x * 255, image)


def shifted_hsv(image: Tensor, shifts: Sequence[float]) -> Tensor:
    """Hue, saturation and value moved by so much in OpenCV's 8-bit HSV: hue 0..180 turns, the others are clipped.

    Args:
        image: pixels (3, H, W).
        shifts: of the three.
    """
    hue, saturation, value = to_hsv(levels(image) / 255)
    hue = (hue + shifts[0] / 180) % 1
    saturation, value = ((c + s / 255).clamp(0, 1) for c, s in ((saturation, shifts[1]), (value, shifts[2])))
    return like(from_hsv(hue, saturation, value) * 255, image)


def to_hsv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """RGB (3, H, W) in 0..1 to hue, saturation and value (H, W) in 0..1."""
    value, most = image.max(0)
    spread = value - image.amin(0)
    safe = torch.where(spread == 0, 1, spread)
    red, green, blue = image
    hues = torch.stack([(green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe])
    hue = (hues.gather(0, most[None])[0] / 6) % 1
    return torch.where(spread == 0, 0, hue), spread / torch.where(value == 0, 1, value), value


def from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Hue, saturation and value (H, W) in 0..1 to RGB (3, H, W)."""
    k = (torch.tensor([5.0, 3.0, 1.0], device=hue.device).view(3, 1, 1) + hue * 6) % 6
    return value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1)
