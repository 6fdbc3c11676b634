"""timm backbones: layers, strides, input scale, positions and weights files, against timm's own forward."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from segproto.encoders.base import HALF, IMAGENET
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.encoders.position import resample_position_embedding
from segproto.encoders.timm_backbone import pixel_multiple
from segproto.errors import ConfigError, WeightsError

VIT, CNN = "test_vit", "test_resnet"
DATA = os.environ.get("SEGPROTO_DATA")


def bare(name, **settings):
    torch.manual_seed(0)
    return build_encoder(EncoderConfig(backbone=name, neck="identity", squash="none", **settings)).eval()


def reference(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0, **options).eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("stride", "layers", "expected"), [(8, None, 8), (16, None, 16), (None, None, 32), (8, [2, -1], 8)]
)
def test_cnn_maps_are_timms(stride, layers, expected):
    encoder = bare(CNN, output_stride=stride, layers=layers)
    x = torch.randn(1, 3, 64, 96)
    out = encoder(x)
    assert out.shape[-2:] == (64 // expected, 96 // expected)
    maps = reference(CNN, **({"output_stride": stride} if stride else {})).forward_intermediates(
        x, intermediates_only=True
    )
    torch.testing.assert_close(out, torch.cat([maps[2], maps[4]] if layers else [maps[4]], 1))
    assert encoder.scale_dims == (out.shape[1],)


@torch.no_grad()
def test_maps_of_several_strides_go_to_the_finest():
    x = torch.randn(1, 3, 64, 64)
    out = bare(CNN, layers=[2, 3])(x)
    maps = reference(CNN).forward_intermediates(x, intermediates_only=True)
    up = torch.nn.functional.interpolate(maps[3], maps[2].shape[-2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(out, torch.cat([maps[2], up], 1))


def test_unused_layers_are_dropped_and_structure_alone_can_be_built():
    encoder = bare(CNN, layers=[1])
    assert not any("layer4" in k or ".fc." in k for k in encoder.state_dict())
    config = EncoderConfig(backbone=VIT, layers=[1], weights=Path("gone.safetensors"), pretrained=True)
    again = build_encoder(config, load_weights=False)
    assert again.state_dict().keys() == build_encoder(EncoderConfig(backbone=VIT, layers=[1])).state_dict().keys()


def test_a_local_file_is_never_followed_by_a_download(tmp_path, monkeypatch):
    asked = []
    make = timm.create_model

    def watched(name, pretrained=False, **options):
        asked.append(pretrained)
        if pretrained:
            raise ConnectionError("no route\nmore")
        return make(name, **options)

    torch.save(make(VIT).state_dict(), tmp_path / "vit.pth")
    monkeypatch.setattr(timm, "create_model", watched)
    build_encoder(EncoderConfig(backbone=VIT, weights=tmp_path / "vit.pth", pretrained=True))
    assert not any(asked)
    with pytest.raises(WeightsError, match=r"downloaded \(no route\); give a local file: encoder.weights=FILE$"):
        build_encoder(EncoderConfig(backbone=VIT, pretrained=True))


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_vit3"])
def test_vit_at_its_own_size_equals_timms_forward(name):
    net = reference(name)
    x = torch.randn(1, 3, *net.patch_embed.img_size)
    tokens = net.forward_features(x)[:, net.num_prefix_tokens :]
    out = bare(name)(x)
    torch.testing.assert_close(out.flatten(2).transpose(1, 2), tokens)


@torch.no_grad()
def test_vit_layers_are_normed_and_concatenated():
    x = torch.randn(1, 3, 160, 160)
    net = reference(VIT)
    maps = net.forward_intermediates(x, indices=[2, 5], norm=True, intermediates_only=True)
    torch.testing.assert_close(bare(VIT, layers=[-1, 2])(x), torch.cat(maps, 1))


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["test_vit", "test_vit2", "deit_tiny_distilled_patch16_224", "vit_small_plus_patch16_dinov3"]
)
def test_vit_takes_any_size(name):
    encoder = bare(name)
    assert encoder.stride_multiple == 16
    assert encoder(torch.randn(1, 3, 50, 33)).shape == (1, encoder.num_features, 4, 3)


@torch.no_grad()
def test_rectangles_use_the_reference_positions():
    encoder = bare(VIT)
    net = reference(VIT, img_size=(64, 96))
    state = reference(VIT).state_dict()
    state["pos_embed"] = resample_position_embedding(state["pos_embed"], (4, 6), net.num_prefix_tokens)
    net.load_state_dict(state)
    x = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(
        encoder(x), net.forward_intermediates(x, indices=[5], norm=True, intermediates_only=True)[0]
    )


def cubic(t):
    t, a = abs(t), -0.75
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def naive_axis(size, side):
    """Rows of bicubic weights with src = (dst + 0.5) / factor - 0.5, factor = (size + 0.1) / side, borders repeated."""
    weights = np.zeros((size, side))
    for dst in range(size):
        src = (dst + 0.5) / ((size + 0.1) / side) - 0.5
        base = int(np.floor(src))
        for k in range(base - 1, base + 3):
            weights[dst, min(max(k, 0), side - 1)] += cubic(src - k)
    return weights


@pytest.mark.parametrize("grid", [(4, 9), (7, 6), (12, 12)])
def test_position_resampling_is_the_reference_rule(grid):
    torch.manual_seed(0)
    embedding = torch.randn(1, 1 + 49, 5)
    out = resample_position_embedding(embedding, grid, 1)
    patches = embedding[0, 1:].reshape(7, 7, 5).double().numpy()
    naive = np.einsum("yi,xj,ijd->yxd", naive_axis(grid[0], 7), naive_axis(grid[1], 7), patches)
    assert torch.equal(out[:, :1], embedding[:, :1])
    np.testing.assert_allclose(out[0, 1:].numpy(), naive.reshape(-1, 5), atol=1e-4)
    assert resample_position_embedding(embedding, (7, 7), 1) is embedding


@torch.no_grad()
def test_input_scale_resizes_before_the_network():
    encoder = bare(VIT, input_scale=1.5)
    assert encoder.stride_multiple == 32
    assert encoder.padded_size(40, 64) == (64, 64)
    x = torch.randn(1, 3, 64, 96)
    big = torch.nn.functional.interpolate(x, (96, 144), mode="bilinear", align_corners=False)
    torch.testing.assert_close(encoder(x), bare(VIT)(big))


@pytest.mark.parametrize(("scale", "multiple"), [(1, 16), (1.5, 32), (2, 8), (1.25, 64), (0.5, 32), (4, 4)])
def test_pixel_multiple(scale, multiple):
    assert pixel_multiple(scale, 16) == multiple
    assert multiple * scale % 16 == 0


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_convnext", "hrnet_w18_small", "test_efficientnet"])
def test_other_families_cover_any_size(name):
    encoder = bare(name, layers=[1, 2])
    rows, columns = encoder(torch.randn(1, 3, 70, 45)).shape[-2:]
    padded = encoder.padded_size(70, 45)
    assert padded[0] / rows == padded[1] / columns


def test_refusals_name_what_is_valid():
    with pytest.raises(ConfigError, match="test_resnet takes 8, 16, 32"):
        bare(CNN, output_stride=7)
    with pytest.raises(ConfigError, match=r"hrnet_w18_small cannot be dilated.*stride 32"):
        bare("hrnet_w18_small", output_stride=8)
    with pytest.raises(ConfigError, match="output_stride=8: test_vit has 16"):
        bare(VIT, output_stride=8)
    with pytest.raises(ConfigError, match=r"encoder.layers=\[6\]: test_vit has layers 0..5"):
        bare(VIT, layers=[6])
    with pytest.raises(ConfigError, match=r"encoder\.backbone=None"):
        build_encoder(EncoderConfig())
    with pytest.raises(ConfigError, match=r"encoder\.backbone=vit_tiny_patch61_224: not a timm model"):
        bare("vit_tiny_patch61_224")
    with pytest.raises(ConfigError, match=r"input_scale=1\.37"):
        bare(VIT, input_scale=1.37)


def test_local_weights_by_timm_names(tmp_path):
    torch.manual_seed(5)
    state = timm.create_model(VIT).state_dict()
    assert any(k.startswith("head.") for k in state)
    save_file(state | {"mask_token": torch.zeros(1)}, tmp_path / "vit.safetensors")
    encoder = bare(VIT, weights=tmp_path / "vit.safetensors", layers=[0])
    assert torch.equal(encoder.backbone.taps.net.pos_embed, state["pos_embed"])
    state.pop("norm.weight")
    save_file(state | {"neck.weight": torch.zeros(1)}, tmp_path / "cut.safetensors")
    with pytest.raises(WeightsError, match=r"cut.safetensors: .*1 missing: norm.weight; 1 unexpected: neck.weight"):
        bare(VIT, weights=tmp_path / "cut.safetensors")
    state = timm.create_model(VIT).state_dict()
    save_file(state | {"pos_embed": state["pos_embed"][:, 1:].clone()}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"1 wrong: pos_embed is \(1, 100, 64\), expected \(1, 101, 64\)"):
        bare(VIT, weights=tmp_path / "other.safetensors")


def test_normalisation_is_the_models():
    assert bare("vit_tiny_patch16_224").normalisation == HALF
    assert bare("deit_tiny_patch16_224").normalisation == IMAGENET


@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="SEGPROTO_DATA is unset")
@torch.no_grad()
def test_real_vit_tiny_equals_timms_forward():
    from PIL import Image

    weights = Path(DATA or "") / "weights" / "vit_tiny_patch16_224_in1k.safetensors"
    net = timm.create_model("vit_tiny_patch16_224", checkpoint_path=str(weights)).eval()
    encoder = bare("vit_tiny_patch16_224", weights=weights, frozen=True)
    file = sorted((Path(DATA or "") / "camvid" / "images").iterdir())[0]
    image = torch.from_numpy(np.array(Image.open(file).convert("RGB").resize((224, 224)))).permute(2, 0, 1)[None]
    x = encoder.normalisation(image)
    torch.testing.assert_close(encoder(x).flatten(2).transpose(1, 2), net.forward_features(x)[:, 1:])
    assert net(x).softmax(1).max() > 0.1  # a network that reads the image as it was trained to is not indifferent
