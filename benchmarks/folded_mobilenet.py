"""MobileNetV2 with folded batch norms (as TensorFlow Lite keeps it) as a state dict of timm's ``mobilenetv2_100``.

The convolutions become timm's in order, and each bias that of the norm behind it (mean 0, variance 1 less epsilon). The
first one takes in the other input normalisation. TensorFlow's SAME padding puts the extra pixel right and below, torch
one on both sides: the maps are the same but for the border and a shift of up to 31 pixels of what a cell looks at.
"""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def unfold(source: Path, target: Path) -> Path:
    """Writes ``source`` (``convNN.weight`` and ``convNN.bias``, input ``(x - 128) / 128``) with timm's names, once."""
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(unfolded(load_file(source)), target)
    return target


def unfolded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of timm's network, without its classifier."""
    net = timm.create_model("mobilenetv2_100", num_classes=0)
    mean, std = (torch.tensor(net.pretrained_cfg[key]) for key in ("mean", "std"))
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(convs) == len(norms) == 52
    with torch.no_grad():
        for i, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
            weight, bias = tensors[f"conv{i:02d}.weight"].float(), tensors[f"conv{i:02d}.bias"].float()
            if i == 0:  # (255 v - 128) / 128 of v = std x + mean
                slope, offset = 255 / 128 * std, 255 / 128 * mean - 1
                bias = bias + (weight.sum((2, 3)) * offset).sum(1)
                weight = weight * slope[:, None, None]
            conv.weight.copy_(weight)
            norm.weight.fill_(1)
            norm.bias.copy_(bias)
            norm.running_mean.zero_()
            norm.running_var.fill_(1 - norm.eps)
    return net.state_dict()
