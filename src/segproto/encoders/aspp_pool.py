"""The ASPP with image pooling of the weakly supervised systems' "DeepLabv2", with its key names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segproto.encoders.kind import NeckKind
from segproto.errors import ConfigError

if TYPE_CHECKING:
    from segproto.encoders.base import Backbone
    from segproto.encoders.config import EncoderConfig

DROPOUT = 0.5


class ASPPPool(nn.Module):
    """Four dilated 3x3 convolutions and a pooled branch, side by side, and a 1x1 convolution that brings them together.

    Every convolution is without bias and followed by batch norm and ReLU (Chen et al. 2017, with DeepLabv2's rates).
    The dropout that the published network has before its classifier is the second of the two in a row here.

    Args:
        channels: of the backbone's map.
        dim: channels of each branch and of the output (published: 256).
        rates: four dilation rates.
        momentum: of the batch norms' statistics (published: 3e-4); None = torch's.

    Raises:
        ValueError: another number of rates.
    """

    def __init__(
        self, channels: int, dim: int = 256, rates: Sequence[int] = (6, 12, 18, 24), momentum: float | None = None
    ) -> None:
        super().__init__()
        if len(rates) != 4:
            raise ValueError(f"{len(rates)} rates; expected 4")
        self.scale_dims = (dim,)
        for number, rate in enumerate(rates, 1):
            conv = nn.Conv2d(channels, dim, 3, padding=rate, dilation=rate, bias=False)
            self.add_module(f"branch{number}", nn.Sequential(conv, nn.BatchNorm2d(dim), nn.ReLU()))
        self.branch5_conv = nn.Conv2d(channels, dim, 1, bias=False)
        self.branch5_bn = nn.BatchNorm2d(dim)
        join = nn.Conv2d(5 * dim, dim, 1, bias=False)
        self.conv_cat = nn.Sequential(join, nn.BatchNorm2d(dim), nn.ReLU(), nn.Dropout(DROPOUT))
        self.dropout = nn.Dropout(DROPOUT)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d) and momentum is not None:
                layer.momentum = momentum
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) to (B, dim, h, w)."""
        parts = [self.get_submodule(f"branch{number}")(features) for number in range(1, 5)]
        pooled = F.relu(self.branch5_bn(self.branch5_conv(F.adaptive_avg_pool2d(features, 1))))
        joined = torch.cat([*parts, pooled.expand_as(parts[0])], 1)
        out: Tensor = self.dropout(self.conv_cat(joined))
        return out


def build_aspp_pool(config: EncoderConfig, backbone: Backbone) -> tuple[ASPPPool, tuple[int, ...]]:
    """The neck of these settings; it has four branches, as published.

    Raises:
        ConfigError: another number of rates.
    """
    if len(config.rates) != 4:
        raise ConfigError(f"encoder.rates={config.rates}: aspp_pool takes four")
    neck = ASPPPool(backbone.num_features, config.dim, config.rates, config.neck_momentum)
    return neck, neck.scale_dims


ASPP_POOL = NeckKind(
    name="aspp_pool",
    title="the ASPP of pixelcontrast's DeepLabv2, with image pooling",
    build=build_aspp_pool,
    reads=("neck_momentum",),
)
