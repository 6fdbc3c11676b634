"""Whole modules as the published codes pickle them: their class paths, names and shapes, and a plain forward each.

The classes exist only while a file is written; nothing of the published code is used. The forward passes restate the
published formulas with plain torch calls, in float64.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE = "segmentation.model"
LIBS = "deeplab_pytorch.libs.models"


@contextlib.contextmanager
def published_classes(*paths: str) -> Iterator[dict[str, type[nn.Module]]]:
    """Importable empty module classes of these paths, by their last name."""
    made, before = {}, dict(sys.modules)
    for path in paths:
        module, _, name = path.rpartition(".")
        parts = module.split(".")
        for i in range(len(parts)):
            sys.modules.setdefault(".".join(parts[: i + 1]), types.ModuleType(".".join(parts[: i + 1])))
        made[name] = type(name, (nn.Module,), {"__module__": module})
        setattr(sys.modules[module], name, made[name])
    try:
        yield made
    finally:
        for name in sys.modules.keys() - before.keys():
            del sys.modules[name]


def conv_bn_relu(kind: type[nn.Module], i: int, o: int, k: int, s: int = 1, p: int = 0, d: int = 1) -> nn.Module:
    block = kind()
    block.add_module("conv", nn.Conv2d(i, o, k, s, p, d, bias=False))
    block.add_module("bn", nn.BatchNorm2d(o, eps=1e-5, momentum=0.001))
    block.add_module("relu", nn.ReLU())
    return block


def aspp(kind: type[nn.Module], channels: int, dim: int) -> nn.Module:
    out = kind()
    for i, rate in enumerate((6, 12, 18, 24)):
        out.add_module(f"c{i}", nn.Conv2d(channels, dim, 3, 1, rate, rate))
    return out


def deeplab(c: dict[str, type[nn.Module]]) -> nn.Module:
    net, unit = c["DeepLabV2"](), c["_ConvBnReLU"]
    net.layer1 = c["_Stem"]()
    net.layer1.conv1 = conv_bn_relu(unit, 3, 64, 7, 2, 3)
    net.layer1.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
    channels = 64
    for index, (blocks, stride, dilation) in enumerate(zip((3, 4, 23, 3), (1, 2, 1, 1), (1, 1, 2, 4), strict=True)):
        layer, out = c["_ResLayer"](), 256 << index
        for b in range(blocks):
            block = c["_Bottleneck"]()
            block.reduce = conv_bn_relu(unit, channels, out // 4, 1, stride if b == 0 else 1)
            block.conv3x3 = conv_bn_relu(unit, out // 4, out // 4, 3, 1, dilation, dilation)
            block.increase = conv_bn_relu(unit, out // 4, out, 1)
            if b == 0:
                block.shortcut = conv_bn_relu(unit, channels, out, 1, stride)
            layer.add_module(f"block{b + 1}", block)
            channels = out
        net.add_module(f"layer{index + 2}", layer)
    net.aspp = aspp(c["_ASPP"], 2048, 64)
    return net


def unet(c: dict[str, type[nn.Module]], width: int) -> nn.Module:
    def double(i: int, o: int) -> nn.Module:
        block, layers = c["DoubleConv"](), []
        for a in (i, o):
            layers += [nn.Conv2d(a, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
        block.double_conv = nn.Sequential(*layers)
        return block

    net = c["UNetASPP"]()
    net.inc = double(3, width)
    for i in range(4):
        down = c["Down"]()
        down.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), double(width << i, width << i + 1))
        net.add_module(f"down{i + 1}", down)
    for i in range(4):
        up, channels = c["Up"](), width * 16 >> i
        up.up = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
        up.conv = double(channels, channels // 2)
        net.add_module(f"up{i + 1}", up)
    net.outc = c["OutConv"]()
    net.outc.conv = nn.Conv2d(width, width, 1)
    net.aspp = aspp(c["_ASPP"], width, 64)
    return net


def randomise(net: nn.Module, seed: int) -> None:
    """Weights that keep features alive through the depth, and norms that have seen data."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            for name, low, high in [("weight", 0.2, 0.5), ("bias", -0.2, 0.2)]:
                nn.init.uniform_(getattr(module, name), low, high, generator=generator)
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.num_batches_tracked.fill_(7)


def unit(x: Tensor, s: dict[str, Tensor], p: str, relu: bool = True, **options: Any) -> Tensor:
    """Convolution, norm in eval mode, ReLU."""
    y = F.conv2d(x, s[f"{p}.conv.weight"], **options)
    y = norm(y, s, f"{p}.bn")
    return y.clamp(min=0) if relu else y


def norm(y: Tensor, s: dict[str, Tensor], p: str) -> Tensor:
    scale = s[f"{p}.weight"] / torch.sqrt(s[f"{p}.running_var"] + 1e-5)
    return y * scale.view(-1, 1, 1) + (s[f"{p}.bias"] - s[f"{p}.running_mean"] * scale).view(-1, 1, 1)


def deeplab_forward(x: Tensor, s: dict[str, Tensor]) -> Tensor:
    x = unit(x, s, "layer1.conv1", stride=2, padding=3)
    x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    for layer, (blocks, stride, d) in enumerate(zip((3, 4, 23, 3), (1, 2, 1, 1), (1, 1, 2, 4), strict=True), start=2):
        for b in range(1, blocks + 1):
            p, step = f"layer{layer}.block{b}", stride if b == 1 else 1
            y = unit(x, s, f"{p}.reduce", stride=step)
            y = unit(y, s, f"{p}.conv3x3", padding=d, dilation=d)
            y = unit(y, s, f"{p}.increase", relu=False)
            x = (y + (unit(x, s, f"{p}.shortcut", relu=False, stride=step) if b == 1 else x)).clamp(min=0)
    return x


def unet_forward(x: Tensor, s: dict[str, Tensor]) -> Tensor:
    def double(x: Tensor, p: str) -> Tensor:
        for i in (0, 3):
            x = F.conv2d(x, s[f"{p}.double_conv.{i}.weight"], padding=1)
            x = norm(x, s, f"{p}.double_conv.{i + 1}").clamp(min=0)
        return x

    skips = [double(x, "inc")]
    for i in range(1, 5):
        skips.append(double(F.max_pool2d(skips[-1], 2), f"down{i}.maxpool_conv.1"))
    x = skips.pop()
    for i in range(1, 5):
        up = F.conv_transpose2d(x, s[f"up{i}.up.weight"], s[f"up{i}.up.bias"], stride=2)
        x = double(torch.cat([skips.pop(), up], 1), f"up{i}.conv")
    return F.conv2d(x, s["outc.conv.weight"], s["outc.conv.bias"])


def aspp_forward(x: Tensor, s: dict[str, Tensor], concat: bool) -> Tensor:
    branches = [
        F.conv2d(x, s[f"aspp.c{i}.weight"], s[f"aspp.c{i}.bias"], padding=rate, dilation=rate)
        for i, rate in enumerate((6, 12, 18, 24))
    ]
    return torch.cat(branches, 1) if concat else branches[0] + branches[1] + branches[2] + branches[3]


class Published:
    """A published checkpoint with random weights.

    Args:
        classes: C.
        scales: 4 (ScaleProtoSeg) or 1 (ProtoSeg).
        per_class: prototypes per class and scale.
        network: deeplab or unet.
        drop: prototypes that de-duplication or pruning removed.
        groups: a grouped model.
        threshold: group weights below it are 0.
        msc: scales of the wrapper.
        width: of the U-Net.
    """

    def __init__(
        self,
        classes: int,
        scales: int,
        per_class: int,
        network: str = "unet",
        drop: tuple[int, ...] = (),
        groups: bool = False,
        threshold: float = 0.0,
        msc: tuple[float, ...] = (),
        width: int = 4,
        seed: int = 0,
    ) -> None:
        self.classes, self.scales, self.groups, self.msc = classes, scales, groups, msc
        self.network, self.width, self.seed = network, width, seed
        generator = torch.Generator().manual_seed(seed + 1)
        kept = [p for p in range(scales * classes * per_class) if p not in drop]
        self.scale_of = [p // (classes * per_class) for p in kept]
        self.class_of = [p % (classes * per_class) // per_class for p in kept]
        self.vectors = torch.rand(len(kept), 64, generator=generator)
        self.readout = torch.randn(classes, len(kept), generator=generator)
        self.group_weights = []
        for c in range(classes):
            if c in self.class_of:
                weights = torch.rand(3, self.class_of.count(c), generator=generator).softmax(1)
                self.group_weights.append(torch.where(weights < threshold, 0, weights))
        self.group_readout = torch.randn(classes, 3 * len(self.group_weights), generator=generator)

    def save(self, path: Path, **options: Any) -> None:
        """The whole module, pickled with the published class paths."""
        variant = "deeplabv2_multiscale" if self.scales > 1 else "deeplabv2"
        unets = [f"{LIBS}.unet.{n}" for n in ("UNetASPP", "DoubleConv", "Down", "Up", "OutConv")]
        deeplabs = [f"{LIBS}.{variant}.{n}" for n in ("DeepLabV2", "_ASPP")]
        deeplabs += [f"{LIBS}.resnet.{n}" for n in ("_Stem", "_ResLayer", "_Bottleneck", "_ConvBnReLU")]
        group = "_group" if self.groups else ""
        own = f"{CODE}.model_multiscale{group}.PPNetMultiScale" if self.scales > 1 else f"{CODE}.model.PPNet"
        with published_classes(own, "segmentation.utils.MSC", *deeplabs, *unets) as c:
            net = c[own.rpartition(".")[2]]()
            net.features = c["MSC"]()
            net.features.base = deeplab(c) if self.network == "deeplab" else unet(c, self.width)
            net.features.scales = list(self.msc)
            randomise(net, self.seed)
            net.add_on_layers = nn.Sequential(nn.Sigmoid())
            net.prototype_vectors = nn.Parameter(self.vectors[:, :, None, None])
            net.ones = nn.Parameter(torch.ones(len(self.vectors), 64, 1, 1), requires_grad=False)
            self.attributes(net)
            if self.groups:
                layers = []
                for weights in self.group_weights:
                    layers.append(nn.Linear(weights.shape[1], 3, bias=False))
                    layers[-1].weight = nn.Parameter(weights)
                net.group_projection = nn.ModuleList(layers)
                net.last_layer_group = nn.Linear(self.group_readout.shape[1], self.classes, bias=False)
                net.last_layer_group.weight = nn.Parameter(self.group_readout)
            else:
                net.last_layer = nn.Linear(len(self.vectors), self.classes, bias=False)
                net.last_layer.weight = nn.Parameter(self.readout)
            self.state = OrderedDict(net.state_dict())
            torch.save(net, path, **options)

    def attributes(self, net: Any) -> None:
        """What the published code keeps outside of the state dict."""
        net.prototype_class_identity = F.one_hot(torch.tensor(self.class_of), self.classes).float()
        if self.scales > 1:
            first = [self.scale_of.index(s) for s in range(self.scales)] + [len(self.scale_of)]
            net.scale_num_prototypes = {s: (first[s], first[s + 1]) for s in range(self.scales)}
            net.num_scales = self.scales
        if self.groups:
            net.num_groups = 3
            net.group_class_identity = torch.zeros(3 * len(self.group_weights), self.classes)
        net.epsilon, net.prototype_activation_function = 1e-4, "log"
        net.incorrect_strength, net.img_size, net.proto_layer_rf_info = -0.5, 224, None

    def features(self, images: Tensor) -> Tensor:
        """Published features in eval mode, float64: plain and scaled inputs fused by maximum, then a sigmoid."""
        s = {k.removeprefix("features.base."): v.double() for k, v in self.state.items() if k.startswith("features")}
        forward = deeplab_forward if self.network == "deeplab" else unet_forward

        def base(x: Tensor) -> Tensor:
            return aspp_forward(forward(x, s), s, self.scales > 1)

        out = base(images.double())
        fused = out
        for p in self.msc:
            small = F.interpolate(images.double(), scale_factor=p, mode="bilinear", align_corners=False)
            up = F.interpolate(base(small), size=out.shape[-2:], mode="bilinear", align_corners=False)
            fused = torch.max(fused, up)
        return torch.sigmoid(fused)

    def logits(self, images: Tensor) -> Tensor:
        """Published logits (B, C, h, w), float64, prototype by prototype."""
        z = self.features(images)
        similarity = []
        for vector, scale in zip(self.vectors.double(), self.scale_of, strict=True):
            d = (z[:, 64 * scale : 64 * scale + 64] - vector[:, None, None]).square().sum(1)
            similarity.append(torch.log((d + 1) / (d + 1e-4)))
        g = torch.stack(similarity, -1)
        if not self.groups:
            return (g @ self.readout.double().T).permute(0, 3, 1, 2)
        units, present = [], sorted(set(self.class_of))
        for c, weights in zip(present, self.group_weights, strict=True):
            own = [p for p, k in enumerate(self.class_of) if k == c]
            units.append(torch.exp(g[..., own] @ weights.double().T))
        return (torch.cat(units, -1) @ self.group_readout.double().T).permute(0, 3, 1, 2)
