"""The code head of STEGO and HP: a linear and a nonlinear map of frozen features, added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from segproto.encoders.kind import NeckKind

if TYPE_CHECKING:
    from segproto.encoders.base import Backbone
    from segproto.encoders.config import EncoderConfig

DROPOUT = 0.1

DropoutMode = Literal["off", "training", "always"]


class Codes(nn.Module):
    """``cluster1(drop(f)) + cluster2(drop(f))`` (Hamilton et al., ICLR 2022), under the names of published files.

    Args:
        in_channels: C of the features.
        dim: D of the codes.
        dropout: of whole channels, drawn for both maps apart: ``off``; in ``training``, as STEGO learns; or ``always``,
            as PriMaPs' release left it on.
    """

    def __init__(self, in_channels: int, dim: int, dropout: DropoutMode = "off") -> None:
        super().__init__()
        self.dropout = dropout
        self.scale_dims = (dim,)
        self.cluster1 = nn.Sequential(nn.Conv2d(in_channels, dim, 1))
        self.cluster2 = nn.Sequential(nn.Conv2d(in_channels, in_channels, 1), nn.ReLU(), nn.Conv2d(in_channels, dim, 1))

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, dim, h, w)."""
        drops = self.dropout == "always" or (self.dropout == "training" and self.training)
        linear, other = (F.dropout2d(features, DROPOUT, training=drops) for _ in range(2))
        out: Tensor = self.cluster1(linear) + self.cluster2(other)
        return out


def build_codes(config: EncoderConfig, backbone: Backbone) -> tuple[Codes, tuple[int, ...]]:
    """The neck of these settings."""
    neck = Codes(backbone.num_features, config.dim, config.code_dropout)
    return neck, neck.scale_dims


CODES = NeckKind(name="codes", title="the code head of STEGO and HP", build=build_codes)
