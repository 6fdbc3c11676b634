"""The neck of DeepLabv1 LargeFOV as the weakly supervised systems train it (Chen et al. 2015)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from segproto.encoders.kind import NeckKind

CHANNELS = 512
MOMENTUM = 3e-4  # of its batch norms, as published


class LargeFOV(nn.Module):
    """A 3x3 convolution of dilation 12, a 1x1 convolution and dropout, with the published key names.

    Args:
        channels: of the backbone's map.
    """

    scale_dims = (CHANNELS,)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_fov = nn.Conv2d(channels, CHANNELS, 3, 1, 12, 12, bias=False)
        self.bn_fov = nn.BatchNorm2d(CHANNELS, momentum=MOMENTUM)
        self.conv_fov2 = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
        self.bn_fov2 = nn.BatchNorm2d(CHANNELS, momentum=MOMENTUM)
        self.dropout = nn.Dropout(0.5)
        for layer in (self.conv_fov, self.conv_fov2):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) to (B, 512, h, w)."""
        x = F.relu(self.bn_fov(self.conv_fov(features)))
        out: Tensor = self.dropout(F.relu(self.bn_fov2(self.conv_fov2(x))))
        return out


LARGEFOV = NeckKind(
    name="largefov",
    title="the neck of DeepLabv1 LargeFOV, 512 channels",
    build=lambda config, backbone: (LargeFOV(backbone.num_features), LargeFOV.scale_dims),
)
