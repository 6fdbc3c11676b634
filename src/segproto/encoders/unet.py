"""The U-Net of the published electron-microscopy experiments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segproto.encoders.base import IMAGENET, Backbone
from segproto.encoders.kind import BackboneKind
from segproto.encoders.weights import fit, read_state
from segproto.errors import ConfigError

if TYPE_CHECKING:
    from segproto.encoders.config import EncoderConfig

STRIDES = {1: 4, 2: 3, 4: 2}  # output stride -> number of up steps kept


class DoubleConv(nn.Module):
    """Twice: 3x3 convolution without bias, batch norm, ReLU."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            *(nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()),
            *(nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, out, H, W)."""
        y: Tensor = self.double_conv(x)
        return y


class Down(nn.Module):
    """Max-pool by 2, then :class:`DoubleConv`."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(channels, out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, out, H//2, W//2)."""
        y: Tensor = self.maxpool_conv(x)
        return y


class Up(nn.Module):
    """Transposed convolution by 2, padded to the skip's size where that is odd; concatenation; :class:`DoubleConv`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
        self.conv = DoubleConv(channels, channels // 2)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, channels, h, w) and skip (B, channels/2, H, W) to (B, channels/2, H, W)."""
        x = self.up(x)
        dy, dx = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]
        x = F.pad(x, (dx // 2, dx - dx // 2, dy // 2, dy - dy // 2))
        y: Tensor = self.conv(torch.cat([skip, x], dim=1))
        return y


class OutConv(nn.Module):
    """A 1x1 convolution with bias."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, out, H, W)."""
        y: Tensor = self.conv(x)
        return y


class UNet(Backbone):
    """U-Net with four levels (Ronneberger et al. 2015, as used by Porta et al. 2025 for EM); torch's default init.

    Images less than 16 pixels high or wide are padded; where a level is odd, what is upsampled is padded to its skip.

    Args:
        width: channels of the first level (64 = published) and of the output.
        output_stride: 1 = published; 2 and 4 leave out the last one or two up steps, and ``outc`` then maps
            from the channels of that level.
        bands: of the images.

    Raises:
        ConfigError: for another output stride.
    """

    def __init__(self, width: int = 64, output_stride: int = 1, bands: int = 3) -> None:
        super().__init__()
        if output_stride not in STRIDES:
            raise ConfigError(f"encoder.output_stride={output_stride}: a unet has 1, 2 or 4")
        self.num_features = width
        self.stride_multiple = output_stride
        self.normalisation = IMAGENET.of_bands(bands)
        self.smallest = 16  # four poolings leave one cell
        self.inc = DoubleConv(bands, width)
        self.down1 = Down(width, width * 2)
        self.down2 = Down(width * 2, width * 4)
        self.down3 = Down(width * 4, width * 8)
        self.down4 = Down(width * 8, width * 16)
        self.ups = STRIDES[output_stride]
        for step in range(self.ups):
            self.add_module(f"up{step + 1}", Up(width * 16 >> step))
        self.outc = OutConv(width * output_stride, width)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, bands, H, W) to features (B, width, H/stride, W/stride)."""
        levels = [self.inc(images)]
        for down in (self.down1, self.down2, self.down3, self.down4):
            levels.append(down(levels[-1]))
        x = levels.pop()
        for step in range(self.ups):
            x = self.get_submodule(f"up{step + 1}")(x, levels.pop())
        out: Tensor = self.outc(x)
        return out


def build_unet(config: EncoderConfig, load_weights: bool) -> UNet:
    """The network of these settings."""
    unet = UNet(config.width, config.output_stride or 1, config.bands)
    if load_weights and config.weights is not None:
        fit(unet, read_state(config.weights), config.weights)
    return unet


UNET = BackboneKind(
    name="unet",
    title="the U-Net of the electron-microscopy experiments",
    build=build_unet,
    bands=True,
    from_scratch=True,
)
