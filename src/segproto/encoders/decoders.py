"""Decoders of the published segmentation networks, up to where their classifier would sit, as necks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segproto.encoders.kind import NeckKind
from segproto.errors import ConfigError

if TYPE_CHECKING:
    from segproto.encoders.base import Backbone
    from segproto.encoders.config import EncoderConfig

DROPOUT = 0.1  # of whole channels, before the classifier or the projection
POOLS = (1, 2, 3, 6)


def conv_norm_relu(channels: int, out: int, kernel: int = 3) -> nn.Sequential:
    """Convolution with bias that keeps the size, batch norm, ReLU."""
    return nn.Sequential(nn.Conv2d(channels, out, kernel, padding=kernel // 2), nn.BatchNorm2d(out), nn.ReLU())


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each cell of (B, D, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FCN(nn.Module):
    """3x3 convolutions on the last map (Long et al. 2015); HRNet's head is one of them on all maps side by side.

    From two on their input is put beside their output, and one more 3x3 convolution brings both together.

    Args:
        channels: of the maps; the last one is read.
        dim: channels of the output.
        convs: how many.
    """

    def __init__(self, channels: Sequence[int], dim: int, convs: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(conv_norm_relu(dim if i else channels[-1], dim) for i in range(convs)))
        self.both = conv_norm_relu(channels[-1] + dim, dim) if convs > 1 else None

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps to (B, dim, h, w) on the grid of the last."""
        out: Tensor = self.convs(maps[-1])
        return out if self.both is None else self.both(torch.cat([maps[-1], out], 1))


class UPer(nn.Module):
    """UPerNet (Xiao et al. 2018): pyramid pooling on the coarsest map, then top-down; each map gets a layer norm first.

    The norms are those that Swin's dense variants put after each stage.

    Args:
        channels: of the maps, finest first.
        dim: channels of the output and of every branch.
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ChannelNorm(c) for c in channels)
        self.pooled = nn.ModuleList(conv_norm_relu(channels[-1], dim, 1) for _ in POOLS)
        self.top = conv_norm_relu(channels[-1] + len(POOLS) * dim, dim)
        self.lateral = nn.ModuleList(conv_norm_relu(c, dim, 1) for c in channels[:-1])
        self.smooth = nn.ModuleList(conv_norm_relu(dim, dim) for _ in channels[:-1])
        self.fuse = conv_norm_relu(len(channels) * dim, dim)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps to (B, dim, h, w) on the grid of the finest."""
        maps = [norm(m) for norm, m in zip(self.norms, maps, strict=True)]
        coarsest = maps[-1]
        parts = [conv(F.adaptive_avg_pool2d(coarsest, n)) for n, conv in zip(POOLS, self.pooled, strict=True)]
        levels = [self.top(torch.cat([coarsest, *(resized(p, coarsest) for p in parts)], 1))]
        for conv, finer in zip(reversed(self.lateral), reversed(maps[:-1]), strict=True):
            own = conv(finer)
            levels.insert(0, own + resized(levels[0], own))
        smoothed = [conv(x) for conv, x in zip(self.smooth, levels, strict=False)]
        out: Tensor = self.fuse(torch.cat([resized(x, levels[0]) for x in [*smoothed, levels[-1]]], 1))
        return out


class SegFormer(nn.Module):
    """SegFormer's decoder (Xie et al. 2021): each map through one linear layer, then one 1x1 convolution on all.

    Args:
        channels: of the maps, finest first.
        dim: channels of the output (published: 768, and 256 for B0 and B1).
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.linear = nn.ModuleList(nn.Conv2d(c, dim, 1) for c in channels)
        self.fuse = nn.Sequential(nn.Conv2d(len(channels) * dim, dim, 1, bias=False), nn.BatchNorm2d(dim), nn.ReLU())

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps to (B, dim, h, w) on the grid of the finest."""
        same = [resized(linear(m), maps[0]) for linear, m in zip(self.linear, maps, strict=True)]
        out: Tensor = self.fuse(torch.cat(same[::-1], 1))
        return out


class Decoder(nn.Module):
    """A decoder, channel dropout and, if wanted, the projection of the embedding head (Zhou et al. 2022).

    The projection is two 1x1 convolutions with a ReLU between; the norm after it belongs to the head.

    Args:
        decode: from the backbone's maps to (B, dim, h, w).
        dim: its channels.
        projection: end in the two convolutions.
    """

    def __init__(self, decode: nn.Module, dim: int, projection: bool) -> None:
        super().__init__()
        self.decode = decode
        self.dropout = nn.Dropout2d(DROPOUT)
        layers = (nn.Conv2d(dim, dim, 1), nn.ReLU(), nn.Conv2d(dim, dim, 1))
        self.projection = nn.Sequential(*layers) if projection else nn.Identity()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, finest first, to (B, dim, h, w)."""
        out: Tensor = self.projection(self.dropout(self.decode(maps)))
        return out


def resized(x: Tensor, like: Tensor) -> Tensor:
    """(B, D, h, w) on the grid of another map, bilinear."""
    size = (like.shape[-2], like.shape[-1])
    return x if tuple(x.shape[-2:]) == size else F.interpolate(x, size, mode="bilinear", align_corners=False)


def build_decoder(
    config: EncoderConfig, backbone: Backbone, decode: Callable[[Sequence[int]], nn.Module]
) -> tuple[Decoder, tuple[int, ...]]:
    """A decoder of the backbone's maps.

    Args:
        config: ``dim``, ``projection``, and ``auxiliary``, which is checked.
        backbone: whose maps it reads.
        decode: from their channels, finest first, to the decoder itself.

    Raises:
        ConfigError: one map where several are needed, or an auxiliary classifier on a map that is not there.
    """
    channels = backbone.map_channels or (backbone.num_features,)
    maps = len(channels)
    if config.neck_kind.several and maps < 2:
        raise ConfigError(
            f"encoder.neck={config.neck} reads several maps, here is {maps}; set encoder.layers, as in [0, 1, 2, 3]"
        )
    if config.auxiliary is not None and config.auxiliary >= maps - 1:
        raise ConfigError(
            f"encoder.auxiliary={config.auxiliary}: of {maps} maps it may read 0..{maps - 2}, not the last"
        )
    return Decoder(decode(channels), config.dim, config.projection), (config.dim,)


def decoder_kind(
    name: str, title: str, make: Callable[[Sequence[int], EncoderConfig], nn.Module], *, several: bool = True
) -> NeckKind:
    """A decoder of the backbone's maps, made from their channels and the settings."""

    def build(config: EncoderConfig, backbone: Backbone) -> tuple[Decoder, tuple[int, ...]]:
        return build_decoder(config, backbone, lambda channels: make(channels, config))

    return NeckKind(name=name, title=title, build=build, reads=("auxiliary", "projection"), maps=True, several=several)


FCN_DECODER = decoder_kind(
    "fcn", "3x3 convolutions on the last map", lambda c, config: FCN(c, config.dim, config.convs), several=False
)
UPER_DECODER = decoder_kind("uper", "UPerNet's decoder", lambda c, config: UPer(c, config.dim))
SEGFORMER_DECODER = decoder_kind("segformer", "SegFormer's decoder", lambda c, config: SegFormer(c, config.dim))
