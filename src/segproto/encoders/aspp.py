"""The multi-scale neck: parallel dilated convolutions (ASPP)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


class ASPP(nn.Module):
    """Parallel 3x3 convolutions with bias, one a dilation rate; no norm, no activation.

    The branches are named ``c0, c1, ...`` as in published checkpoints and start from N(0, 0.01^2) with bias 0
    (Chen et al. 2018, DeepLabv2; the multi-scale concatenation is Porta et al. 2025, section 3.2).

    Args:
        in_channels: channels of the backbone's features.
        dim: channels of every branch.
        rates: dilation rates, one a branch.
        fusion: ``concat`` gives one scale a branch, ``sum`` adds them into a single scale.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int = 64,
        rates: Sequence[int] = (6, 12, 18, 24),
        fusion: Literal["concat", "sum"] = "concat",
    ) -> None:
        super().__init__()
        self.fusion = fusion
        self.scale_dims = (dim,) * len(rates) if fusion == "concat" else (dim,)
        for index, rate in enumerate(rates):
            conv = nn.Conv2d(in_channels, dim, 3, padding=rate, dilation=rate)
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            self.add_module(f"c{index}", conv)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, sum(scale_dims), h, w)."""
        branches = [branch(features) for branch in self.children()]
        if self.fusion == "concat":
            return torch.cat(branches, dim=1)
        return torch.stack(branches).sum(0)
