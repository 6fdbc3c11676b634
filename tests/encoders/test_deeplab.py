"""DeepLabv2-ResNet-101 and ASPP against the published figures and a naive reading of the architecture."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import nn

from segproto.encoders.aspp import ASPP
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.encoders.resnet import DeepLabResNet101, load_imagenet_resnet101, rename_imagenet_resnet101
from segproto.errors import ConfigError, WeightsError


@pytest.fixture(scope="module")
def deeplab():
    torch.manual_seed(0)
    return build_encoder(EncoderConfig(name="deeplabv2_resnet101")).eval()


@pytest.fixture(scope="module")
def imagenet():
    torch.manual_seed(1)
    state = timm.create_model("resnet101").state_dict()
    for name, value in state.items():  # fresh norms are the identity, and the last of a block even zero
        if value.ndim == 1 and not name.startswith("fc"):
            value.uniform_(0.5, 1.5)
    return state


def grid_side(n):
    n = (n - 1) // 2 + 1
    n = math.ceil((n - 1) / 2) + 1
    return (n - 1) // 2 + 1


def test_counts(deeplab):
    modules = list(deeplab.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in modules) == 104
    assert sum(isinstance(m, nn.Conv2d) for m in modules) == 108
    assert round(sum(p.numel() for p in deeplab.parameters()) / 1e6, 2) == 47.22
    assert round(sum(p.numel() for p in deeplab.neck.parameters()) / 1e6, 2) == 4.72
    assert len(deeplab.state_dict()) == 632
    assert len(deeplab.backbone.state_dict()) == 624
    assert deeplab.scale_dims == (64,) * 4
    assert {m.momentum for m in modules if isinstance(m, nn.BatchNorm2d)} == {0.001}


def test_published_key_names(deeplab):
    shapes = {k: tuple(v.shape) for k, v in deeplab.state_dict().items()}
    assert shapes["backbone.layer1.conv1.conv.weight"] == (64, 3, 7, 7)
    assert shapes["backbone.layer1.conv1.bn.num_batches_tracked"] == ()
    assert shapes["backbone.layer5.block1.reduce.conv.weight"] == (512, 1024, 1, 1)
    assert shapes["backbone.layer5.block1.conv3x3.conv.weight"] == (512, 512, 3, 3)
    assert shapes["backbone.layer4.block23.increase.bn.running_var"] == (1024,)
    assert shapes["backbone.layer2.block1.shortcut.conv.weight"] == (256, 64, 1, 1)
    assert shapes["neck.c3.weight"] == (64, 2048, 3, 3)


def test_stride_and_dilation_placement(deeplab):
    backbone = deeplab.backbone
    first = backbone.layer3.block1
    assert first.reduce.conv.stride == first.shortcut.conv.stride == (2, 2)
    assert first.conv3x3.conv.stride == (1, 1)
    dilations = [{b.conv3x3.conv.dilation for b in getattr(backbone, f"layer{i}")} for i in (2, 3, 4, 5)]
    assert dilations == [{(1, 1)}, {(1, 1)}, {(2, 2)}, {(4, 4)}]


@pytest.mark.parametrize(("height", "width"), [(160, 240), (240, 160), (65, 97)])
def test_grids_run(deeplab, height, width):
    with torch.no_grad():
        out = deeplab(torch.zeros(1, 3, height, width))
    assert out.shape == (1, 256, grid_side(height), grid_side(width))
    assert deeplab.padded_size(height, width) == (height, width)


def test_grids_of_the_published_sizes():
    with torch.device("meta"):
        backbone = DeepLabResNet101()
    for (h, w), grid in {
        (321, 513): (41, 65),
        (512, 512): (65, 65),
        (1024, 2048): (129, 257),
        (512, 683): (65, 86),
    }.items():
        assert backbone(torch.zeros(1, 3, h, w, device="meta")).shape[-2:] == grid == (grid_side(h), grid_side(w))


def test_imagenet_weights_fill_all_but_the_aspp(deeplab, imagenet):
    renamed = rename_imagenet_resnet101(imagenet)
    assert renamed.keys() == deeplab.backbone.state_dict().keys()
    assert torch.equal(renamed["layer4.block7.conv3x3.bn.bias"], imagenet["layer3.6.bn2.bias"])
    assert torch.equal(renamed["layer3.block1.shortcut.conv.weight"], imagenet["layer2.0.downsample.0.weight"])


def test_equals_an_imagenet_resnet_without_dilation(imagenet):
    """With stride-1 inputs of one pixel a cell the two networks differ only in placement: compare the first layers."""
    reference = timm.create_model("resnet101").eval()
    reference.load_state_dict(imagenet)
    backbone = DeepLabResNet101().eval()
    load_imagenet_resnet101(backbone, imagenet)
    x = torch.randn(1, 3, 33, 33)  # odd, so that rounding the pool up changes nothing
    with torch.no_grad():
        ours = backbone.layer2(backbone.layer1(x))
        theirs = reference.layer1(reference.maxpool(reference.act1(reference.bn1(reference.conv1(x)))))
    torch.testing.assert_close(ours, theirs)


def test_weights_that_do_not_fit_are_named(imagenet):
    broken = {k: v for k, v in imagenet.items() if k != "layer1.0.conv1.weight"} | {"extra": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"1 missing: layer2\.block1\.reduce\.conv\.weight; 1 unexpected: extra"):
        load_imagenet_resnet101(DeepLabResNet101(), broken)


def test_aspp_is_four_dilated_convolutions():
    torch.manual_seed(0)
    neck = ASPP(5, 3, rates=(1, 2))
    assert [tuple(c.shape) for c in neck.state_dict().values()] == [(3, 5, 3, 3), (3,)] * 2
    assert list(neck.state_dict()) == ["c0.weight", "c0.bias", "c1.weight", "c1.bias"]
    nn.init.normal_(neck.c0.bias)
    x = torch.randn(1, 5, 6, 7)
    padded = nn.functional.pad(x, (2, 2, 2, 2)).double()
    naive = torch.zeros(1, 3, 6, 7, dtype=torch.float64)
    for i in range(6):
        for j in range(7):
            patch = padded[0, :, i : i + 5 : 2, j : j + 5 : 2]
            naive[0, :, i, j] = (neck.c1.weight.double() * patch).sum((1, 2, 3))
    torch.testing.assert_close(neck(x)[:, 3:].double(), naive, atol=1e-6, rtol=1e-5)
    summed = ASPP(5, 3, rates=(1, 2), fusion="sum")
    summed.load_state_dict(neck.state_dict())
    torch.testing.assert_close(summed(x), neck(x)[:, :3] + neck(x)[:, 3:])
    assert (neck.scale_dims, summed.scale_dims) == ((3, 3), (3,))


def test_aspp_init():
    torch.manual_seed(0)
    neck = ASPP(256, 64)
    assert abs(neck.c2.weight.std().item() - 0.01) < 1e-4
    assert not neck.c2.bias.any()


def test_aspp_of_reduced_channels():
    torch.manual_seed(0)
    reduced, plain = ASPP(5, 3, rates=(1, 2), reduce=4), ASPP(4, 3, rates=(1, 2))
    plain.load_state_dict({k: v for k, v in reduced.state_dict().items() if not k.startswith("reduce")})
    x = torch.randn(2, 5, 6, 7)
    weight, bias = reduced.reduce.weight[:, :, 0, 0], reduced.reduce.bias[:, None, None]
    torch.testing.assert_close(reduced(x), plain((torch.einsum("oc,bchw->bohw", weight, x) + bias).clamp(min=0)))


def test_aspp_of_cells_of_any_size():
    torch.manual_seed(0)
    normed, plain = (ASPP(5, 3, rates=(1, 2), layer_norm=flag) for flag in (True, False))
    plain.load_state_dict(normed.state_dict())
    x = 30 * torch.randn(2, 5, 6, 7) + torch.randn(1, 5, 1, 1)
    mean, var = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    torch.testing.assert_close(normed(x), plain((x - mean) / (var + 1e-5).sqrt()))
    torch.testing.assert_close(normed(7 * x), normed(x), atol=1e-4, rtol=1e-3)


def test_settings_that_do_not_go_together():
    with pytest.raises(ConfigError, match=r"encoder\.reduce=8: only aspp reads it"):
        build_encoder(EncoderConfig(name="unet", width=4, neck="identity", reduce=8))
    with pytest.raises(ConfigError, match=r"encoder\.layer_norm=True: only aspp reads it"):
        build_encoder(EncoderConfig(name="unet", width=4, neck="identity", layer_norm=True))
    with pytest.raises(ConfigError, match="output_stride=16"):
        build_encoder(EncoderConfig(name="deeplabv2_resnet101", output_stride=16))
    with pytest.raises(ConfigError, match=r"encoder\.layers=\[1\]: only timm reads it"):
        build_encoder(EncoderConfig(name="unet", layers=[1]))
