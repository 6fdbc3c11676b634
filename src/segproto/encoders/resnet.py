"""The DeepLabv2 ResNet-101 of the published systems, with their key names."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from segproto.encoders.base import Backbone
from segproto.encoders.kind import BackboneKind
from segproto.encoders.weights import fit, read_state
from segproto.errors import ConfigError

if TYPE_CHECKING:
    from segproto.encoders.config import EncoderConfig

BLOCKS = (3, 4, 23, 3)
STRIDES = (1, 2, 1, 1)
DILATIONS = (1, 1, 2, 4)


class ConvBnReLU(nn.Sequential):
    """Convolution without bias, batch norm and (unless told otherwise) ReLU."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.add_module("conv", nn.Conv2d(channels, out, kernel, stride, padding, dilation, bias=False))
        self.add_module("bn", nn.BatchNorm2d(out, eps=1e-5, momentum=0.001))
        if relu:
            self.add_module("relu", nn.ReLU())


class Bottleneck(nn.Module):
    """A residual block whose stride sits in the first 1x1 convolution, not in the 3x3 as in torchvision."""

    def __init__(self, channels: int, out: int, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        mid = out // 4
        self.reduce = ConvBnReLU(channels, mid, 1, stride)
        self.conv3x3 = ConvBnReLU(mid, mid, 3, 1, dilation, dilation)
        self.increase = ConvBnReLU(mid, out, 1, relu=False)
        self.shortcut = ConvBnReLU(channels, out, 1, stride, relu=False) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, out, ceil(H/stride), ceil(W/stride))."""
        return F.relu(self.increase(self.conv3x3(self.reduce(x))) + self.shortcut(x))


class DeepLabResNet101(Backbone):
    """ResNet-101 at output stride 8 (Chen et al. 2018, DeepLabv2), 2048 channels.

    The pool rounds up, so the grid of a side n is, with n1 = (n - 1) // 2 + 1 and n2 = ceil((n1 - 1) / 2) + 1,
    n3 = (n2 - 1) // 2 + 1: 321 to 41, 513 to 65, 1024 to 129.
    """

    num_features = 2048

    def __init__(self) -> None:
        super().__init__()
        stem = OrderedDict(conv1=ConvBnReLU(3, 64, 7, 2, 3), pool=nn.MaxPool2d(3, 2, 1, ceil_mode=True))
        self.layer1 = nn.Sequential(stem)
        channels = 64
        for index, (blocks, stride, dilation) in enumerate(zip(BLOCKS, STRIDES, DILATIONS, strict=True)):
            out = 256 << index
            layer = nn.Sequential()
            for block in range(blocks):
                first = block == 0
                layer.add_module(
                    f"block{block + 1}", Bottleneck(channels, out, stride if first else 1, dilation, project=first)
                )
                channels = out
            self.add_module(f"layer{index + 2}", layer)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to features (B, 2048, h, w)."""
        for layer in self.children():
            images = layer(images)
        return images


INNER = {"conv1": "reduce.conv", "conv2": "conv3x3.conv", "conv3": "increase.conv"}
INNER |= {"bn1": "reduce.bn", "bn2": "conv3x3.bn", "bn3": "increase.bn"}
INNER |= {"downsample.0": "shortcut.conv", "downsample.1": "shortcut.bn"}
BLOCK_KEY = re.compile(r"layer(\d)\.(\d+)\.(conv\d|bn\d|downsample\.\d)\.(\w+)")


def rename_imagenet_resnet101(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Torchvision (or timm) ResNet names to the published DeepLabv2 names; ``fc`` dropped, unknown names kept."""
    renamed = {}
    for name, value in state.items():
        if name.startswith("fc."):
            continue
        block = BLOCK_KEY.fullmatch(name)
        if block:
            layer, index, inner, leaf = block.groups()
            name = f"layer{int(layer) + 1}.block{int(index) + 1}.{INNER[inner]}.{leaf}"  # noqa: PLW2901
        elif name.startswith("conv1."):
            name = f"layer1.conv1.conv.{name.removeprefix('conv1.')}"  # noqa: PLW2901
        elif name.startswith("bn1."):
            name = f"layer1.conv1.bn.{name.removeprefix('bn1.')}"  # noqa: PLW2901
        renamed[name] = value
    return renamed


def load_imagenet_resnet101(backbone: DeepLabResNet101, state: Mapping[str, Tensor], source: object = "state") -> None:
    """Fills every tensor of the backbone (624; the ASPP stays as it is) from an ImageNet ResNet-101.

    Args:
        backbone: filled in place.
        state: a state dict with torchvision's names (timm's are the same), or already with the published ones.
        source: the file, for messages.

    Raises:
        WeightsError: if a tensor is missing, unknown or of another shape.
    """
    fit(backbone, rename_imagenet_resnet101(state), source)


def build_deeplab(config: EncoderConfig, load_weights: bool) -> DeepLabResNet101:
    """The network of these settings.

    Raises:
        ConfigError: another output stride than 8.
    """
    if config.output_stride not in (None, 8):
        raise ConfigError(f"encoder.output_stride={config.output_stride}: deeplabv2_resnet101 has 8")
    resnet = DeepLabResNet101()
    if load_weights and config.weights is not None:
        load_imagenet_resnet101(resnet, read_state(config.weights), config.weights)
    return resnet


DEEPLAB_RESNET101 = BackboneKind(
    name="deeplabv2_resnet101", title="the ResNet-101 of DeepLabv2, as published", build=build_deeplab
)
