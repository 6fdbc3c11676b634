"""The multi-scale neck: parallel dilated convolutions (ASPP)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segproto.encoders.kind import NeckKind

if TYPE_CHECKING:
    from segproto.encoders.base import Backbone
    from segproto.encoders.config import EncoderConfig


class ASPP(nn.Module):
    """Parallel 3x3 convolutions with bias, one a dilation rate; no norm, no activation.

    The branches are named ``c0, c1, ...`` as in published checkpoints and start from N(0, 0.01^2) with bias 0
    (Chen et al. 2018, DeepLabv2; the multi-scale concatenation is Porta et al. 2025, section 3.2).

    Args:
        in_channels: channels of the backbone's features.
        dim: channels of every branch.
        rates: dilation rates, one per branch.
        fusion: ``concat`` gives one scale a branch, ``sum`` adds them into a single scale.
        reduce: channels of a 1x1 convolution with ReLU that all branches read; None = none, as published.
        layer_norm: before all this, a cell's features get mean 0 and variance 1 over the channels (no parameters).
    """

    def __init__(
        self,
        in_channels: int,
        dim: int = 64,
        rates: Sequence[int] = (6, 12, 18, 24),
        fusion: Literal["concat", "sum"] = "concat",
        reduce: int | None = None,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.layer_norm = layer_norm
        self.fusion = fusion
        self.scale_dims = (dim,) * len(rates) if fusion == "concat" else (dim,)
        self.branches = [f"c{index}" for index in range(len(rates))]
        self.reduce = None if reduce is None else nn.Conv2d(in_channels, reduce, 1)
        for name, rate in zip(self.branches, rates, strict=True):
            conv = nn.Conv2d(reduce or in_channels, dim, 3, padding=rate, dilation=rate)
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            self.add_module(name, conv)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, sum(scale_dims), h, w)."""
        if self.layer_norm:
            features = F.layer_norm(features.movedim(1, -1), features.shape[1:2]).movedim(-1, 1)
        if self.reduce is not None:
            features = torch.relu(self.reduce(features))
        branches = [self.get_submodule(name)(features) for name in self.branches]
        if self.fusion == "concat":
            return torch.cat(branches, dim=1)
        return torch.stack(branches).sum(0)


def build_aspp(config: EncoderConfig, backbone: Backbone) -> tuple[ASPP, tuple[int, ...]]:
    """The neck of these settings."""
    options = (config.dim, config.rates, config.fusion, config.reduce, config.layer_norm)
    neck = ASPP(backbone.num_features, *options)
    return neck, neck.scale_dims


ASPP_NECK = NeckKind(
    name="aspp",
    title="parallel dilated 3x3 convolutions, a scale each",
    build=build_aspp,
    reads=("reduce", "layer_norm"),
    branches=True,
)
