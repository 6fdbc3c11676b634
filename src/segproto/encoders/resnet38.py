"""ResNet-38d (Wu et al. 2019, as PSA, SEAM and wseg use it), with the published key names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segproto.encoders.base import Backbone
from segproto.encoders.kind import BackboneKind
from segproto.encoders.largefov import MOMENTUM
from segproto.encoders.weights import fit, read_state
from segproto.errors import WeightsError

if TYPE_CHECKING:
    from segproto.encoders.config import EncoderConfig

FROZEN = ("conv1a", "b2", "b2_1", "b2_2")  # never trained by the CAM and affinity networks
TAPS = (3, 512, 1024, 4096)  # channels of the image, conv4, conv5 and conv6
MXNET_SUFFIX = ".params"


class PlainBlock(nn.Module):
    """Two 3x3 convolutions with pre-activation; ``forward`` gives the sum and its own first activation."""

    def __init__(self, channels: int, mid: int, out: int, stride: int = 1, dilations: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        first, second = dilations
        self.bn_branch2a = nn.BatchNorm2d(channels)
        self.conv_branch2a = nn.Conv2d(channels, mid, 3, stride, first, first, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(mid)
        self.conv_branch2b1 = nn.Conv2d(mid, out, 3, 1, second, second, bias=False)
        self.same = channels == out and stride == 1
        if not self.same:
            self.conv_branch1 = nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, H, W) to (B, out, h, w) and the activation (B, channels, H, W)."""
        y = F.relu(self.bn_branch2a(x))
        shortcut = x if self.same else self.conv_branch1(y)
        return shortcut + self.conv_branch2b1(F.relu(self.bn_branch2b1(self.conv_branch2a(y)))), y


class BottleneckBlock(nn.Module):
    """1x1, dilated 3x3 and 1x1 convolutions with pre-activation and dropout."""

    def __init__(self, channels: int, out: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(channels)
        self.conv_branch2a = nn.Conv2d(channels, out // 4, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(out // 4)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = nn.Conv2d(out // 4, out // 2, 3, 1, dilation, dilation, bias=False)
        self.bn_branch2b2 = nn.BatchNorm2d(out // 2)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = nn.Conv2d(out // 2, out, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(channels, out, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, H, W) to (B, out, H, W) and the activation (B, channels, H, W)."""
        y = F.relu(self.bn_branch2a(x))
        z = self.conv_branch2a(y)
        z = self.conv_branch2b1(self.dropout_2b1(F.relu(self.bn_branch2b1(z))))
        z = self.conv_branch2b2(self.dropout_2b2(F.relu(self.bn_branch2b2(z))))
        return self.conv_branch1(y) + z, y


class Taps(NamedTuple):
    """Activations at stride 4 (256 channels) and stride 8 (512, 1024, 4096 channels)."""

    conv3: Tensor
    conv4: Tensor
    conv5: Tensor
    conv6: Tensor


class ResNet38d(Backbone):
    """ResNet-38 at output stride 8 without pooling: 228 state entries, 105 million weights, 4096 channels.

    As published, all batch norms keep their statistics and weights in training, and the first blocks their weights.
    """

    num_features = 4096
    stride_multiple = 8
    any_size = True
    map_channels: tuple[int, ...] = (512, 1024, 4096)

    def __init__(self) -> None:
        super().__init__()
        self.conv1a = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.b2 = PlainBlock(64, 128, 128, stride=2)
        self.b2_1, self.b2_2 = PlainBlock(128, 128, 128), PlainBlock(128, 128, 128)
        self.b3 = PlainBlock(128, 256, 256, stride=2)
        self.b3_1, self.b3_2 = PlainBlock(256, 256, 256), PlainBlock(256, 256, 256)
        self.b4 = PlainBlock(256, 512, 512, stride=2)
        for index in range(1, 6):
            self.add_module(f"b4_{index}", PlainBlock(512, 512, 512))
        self.b5 = PlainBlock(512, 512, 1024, dilations=(1, 2))
        self.b5_1 = PlainBlock(1024, 512, 1024, dilations=(2, 2))
        self.b5_2 = PlainBlock(1024, 512, 1024, dilations=(2, 2))
        self.b6 = BottleneckBlock(1024, 2048, 4, 0.3)
        self.b7 = BottleneckBlock(2048, 4096, 4, 0.5)
        self.bn7 = nn.BatchNorm2d(4096)
        for name in FROZEN:
            self.get_submodule(name).requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = MOMENTUM

    def train(self, mode: bool = True) -> Self:
        """As torch's, but batch norms stay in eval mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def taps(self, images: Tensor) -> Taps:
        """Normalised images (B, 3, H, W) to the activations that heads read."""
        x, outputs = self.conv1a(images), {}
        for name, block in self.named_children():
            if isinstance(block, PlainBlock | BottleneckBlock):
                x, outputs[name] = block(x)
        return Taps(outputs["b4"], outputs["b5"], outputs["b6"], F.relu(self.bn7(x)))

    def maps(self, images: Tensor) -> list[Tensor]:
        """conv4, conv5 and conv6."""
        return list(self.taps(images)[1:])

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to features (B, 4096, ceil(H/8), ceil(W/8))."""
        return self.taps(images).conv6


class ResNet38Taps(ResNet38d):
    """ResNet-38d that also gives what the heads of PSA, SEAM and pixelcontrast read beside the last map.

    Channels, all on the grid of stride 8: the image (3, bilinear, corners aligned), conv4 (512), conv5 (1024) and conv6
    (4096). Names and weights are those of :class:`ResNet38d`.
    """

    num_features = sum(TAPS)
    map_channels = ()
    untrained = FROZEN

    def maps(self, images: Tensor) -> list[Tensor]:
        """The one joined map."""
        return [self(images)]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to (B, 5635, ceil(H/8), ceil(W/8))."""
        _, conv4, conv5, conv6 = self.taps(images)
        small = F.interpolate(images, conv6.shape[-2:], mode="bilinear", align_corners=True)
        return torch.cat([small, conv4, conv5, conv6], 1)


def rename_mxnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of ``ilsvrc-cls_rna-a1_cls1000_ep-0001.params`` to ours; the 1000-class layer is dropped.

    ``res4b3_branch2a_weight`` is ``b4_3.conv_branch2a.weight``, ``bn4a_branch2a_beta`` is ``b4.bn_branch2a.bias``.
    """
    leaves = {"beta": "bias", "gamma": "weight", "mean": "running_mean", "var": "running_var", "weight": "weight"}
    renamed = {}
    for key, value in state.items():
        first, *rest = key.split(":", 1)[-1].split("_")
        if first.startswith("linear1000"):
            continue
        leaf = leaves.get(rest[-1], rest[-1]) if rest else ""
        branch = next((part for part in rest if part.startswith("branch")), None)
        if branch is None:
            renamed[f"{first}.{leaf}"] = value
            continue
        kind, suffix = ("conv", first[3:]) if first.startswith("res") else ("bn", first[2:])
        block = f"b{suffix[:-1]}" if suffix.endswith("a") else "b" + suffix.replace("b", "_")
        renamed[f"{block}.{kind}_{branch}.{leaf}"] = value
    return renamed


def load_resnet38d(backbone: ResNet38d, path: Path) -> None:
    """Fills the backbone from MXNet's ``.params`` or from a state dict of any published network with this backbone.

    Args:
        backbone: filled in place.
        path: the file; entries of heads are left out, and ``backbone.`` before the names.

    Raises:
        WeightsError: the file is missing or damaged, or does not fit.
    """
    own = backbone.state_dict()
    if path.suffix == MXNET_SUFFIX:
        from segproto.foreign.arrays import read_mxnet_params

        if not path.is_file():
            raise WeightsError(f"{path}: no such weights file; set encoder.weights to one that exists")
        state = rename_mxnet(read_mxnet_params(path))
    else:
        state = {key.removeprefix("backbone."): value for key, value in read_state(path).items()}
    state = {key: value for key, value in state.items() if key in own}
    for key, value in own.items():
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, value)
    fit(backbone, state, path)


def build_resnet38d(config: EncoderConfig, load_weights: bool) -> ResNet38d:
    """The network of these settings, with or without the taps."""
    backbone = ResNet38Taps() if config.name == RESNET38D_TAPS.name else ResNet38d()
    if load_weights and config.weights is not None:
        load_resnet38d(backbone, config.weights)
    return backbone


RESNET38D = BackboneKind(name="resnet38d", title="ResNet-38d of PSA, SEAM and pixelcontrast", build=build_resnet38d)
RESNET38D_TAPS = BackboneKind(
    name="resnet38d_taps",
    title="the same, with the image and the inner maps that the heads of these systems read",
    build=build_resnet38d,
    weights_of=RESNET38D.name,
)
