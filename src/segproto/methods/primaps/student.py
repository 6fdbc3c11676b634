"""What the student sees: the teacher's image, blurred and sometimes in other colours."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.encoders.base import Normalisation
from segproto.methods.primaps.config import StudentConfig
from segproto.prototypes.numerics import constant

TAPS = 21  # of the Gaussian
SIGMA = (0.1, 2.0)
STRENGTH = 0.1  # of brightness, contrast, saturation and hue
GRAY = (0.2989, 0.587, 0.114)


def changed(images: Tensor, keys: Sequence[str], config: StudentConfig, normalisation: Normalisation) -> Tensor:
    """A random variant of each image; which one follows from its key alone, on any number of processes.

    Args:
        images: (B, 3, H, W), normalised.
        keys: one per image.
        config: what may change.
        normalisation: of the images.

    Returns:
        (B, 3, H, W), normalised (``order: published`` changes the normalised images as they are).
    """
    device = images.device
    draws = torch.stack([draw(key) for key in keys]).to(device, images.dtype, non_blocking=True)
    mean = constant(tuple(normalisation.mean), device).view(-1, 1, 1)
    std = constant(tuple(normalisation.std), device).view(-1, 1, 1)
    x = images if config.order == "published" else images * std + mean
    if config.blur:
        x = blurred(x, SIGMA[0] + (SIGMA[1] - SIGMA[0]) * draws[:, 0])
    jittered = draws[:, 1] < config.jitter
    grayed = ~jittered & (draws[:, 1] < config.jitter + config.gray)
    factors = 1 + STRENGTH * (2 * draws[:, 2:5] - 1)
    x = torch.where(where(jittered), recoloured(x, factors, STRENGTH * (2 * draws[:, 5] - 1)), x)
    x = torch.where(where(grayed), gray(x).expand_as(x), x)
    return x if config.order == "published" else (x - mean) / std


def draw(key: str) -> Tensor:
    """Six uniform numbers that follow from a text."""
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") >> 1
    return torch.rand(6, generator=torch.Generator().manual_seed(seed))


def where(chosen: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1)."""
    return chosen[:, None, None, None]


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a standard deviation (B,) per image; borders are reflected."""
    offsets = torch.arange(TAPS, device=images.device, dtype=images.dtype) - TAPS // 2
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None]
    count, _, height, width = images.shape
    pad = TAPS // 2
    mode = "reflect" if min(height, width) > pad else "replicate"
    x = F.pad(images, (pad, pad, pad, pad), mode=mode).reshape(1, count * 3, height + 2 * pad, width + 2 * pad)
    x = F.conv2d(x, kernel[..., None], groups=count * 3)
    return F.conv2d(x, kernel[:, :, None], groups=count * 3).view(count, 3, height, width)


def recoloured(images: Tensor, factors: Tensor, hue: Tensor) -> Tensor:
    """Brightness, contrast and saturation times ``factors`` (B, 3); hue turned by ``hue`` (B,) of a circle."""
    brightness, contrast, saturation = (where(f) for f in factors.T)
    x = (images * brightness).clamp(0, 1)
    x = (contrast * x + (1 - contrast) * gray(x).mean((-3, -2, -1), keepdim=True)).clamp(0, 1)
    x = (saturation * x + (1 - saturation) * gray(x)).clamp(0, 1)
    return turned(x, hue)


def gray(images: Tensor) -> Tensor:
    """Luma (B, 1, H, W)."""
    weights = constant(GRAY, images.device, images.dtype).view(-1, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def turned(images: Tensor, hue: Tensor) -> Tensor:
    """RGB in [0, 1] with its HSV hue turned by ``hue`` (B,) of a circle."""
    red, green, blue = images.unbind(1)
    value, lowest = images.amax(1), images.amin(1)
    chroma = value - lowest
    safe = torch.where(chroma == 0, 1, chroma)
    sixth = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixth = sixth + 6 * hue[:, None, None]
    parts = []
    for offset in (5, 3, 1):
        k = (offset + sixth) % 6
        parts.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(parts, 1)
