"""Resampling of absolute position embeddings to another patch grid."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def resample_position_embedding(embedding: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    """The rule of the DINO and DINOv2 reference code: bicubic, not antialiased, with the factor (h + 0.1) / G.

    The given factor, not h / G, sets the source coordinates, so results differ from a resize to a size (and from
    timm's, which is antialiased) by up to 0.1 in the final features.

    Args:
        embedding: (1, prefix + G*G, D), trained on a square grid.
        grid: rows and columns wanted.
        prefix: leading embeddings without a place (class token); kept as they are.

    Returns:
        (1, prefix + rows*columns, D).
    """
    side = round((embedding.shape[1] - prefix) ** 0.5)
    if grid == (side, side):
        return embedding
    patches = embedding[:, prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factor = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
    patches = F.interpolate(patches, scale_factor=factor, mode="bicubic", align_corners=False)
    return torch.cat([embedding[:, :prefix], patches.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1)], dim=1)
