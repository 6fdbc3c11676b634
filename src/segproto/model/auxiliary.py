"""A plain classifier on an inner map of the encoder, which helps a deep network to train; no prediction runs it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from segproto.encoders.base import Encoder
from segproto.encoders.decoders import conv_norm_relu

WIDTH = 256
DROPOUT = 0.1


class AuxiliaryHead(nn.Module):
    """3x3 convolution, batch norm, ReLU, channel dropout and a 1x1 classifier (the FCN head beside most decoders).

    It stays a plain classifier whatever the model's own head is (Zhou et al. 2022).

    Args:
        channels: of the map it reads.
        num_classes: C.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = conv_norm_relu(channels, WIDTH)
        self.classifier = nn.Conv2d(WIDTH, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, h, w) to logits (B, C, h, w)."""
        out: Tensor = self.classifier(F.dropout2d(self.conv(x), DROPOUT, self.training))
        return out


def auxiliary_head(encoder: Encoder, num_classes: int) -> AuxiliaryHead | None:
    """The head that ``encoder.auxiliary`` asks for, or None."""
    which = encoder.config.auxiliary
    if which is None:
        return None
    channels: tuple[int, ...] = encoder.backbone.map_channels  # type: ignore[assignment]
    return AuxiliaryHead(channels[which], num_classes)
