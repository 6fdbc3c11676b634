"""The EM U-Net: published figures, narrow and strided variants, and what all encoders share."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import save_file

from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.encoders.unet import UNet
from segproto.errors import ConfigError, WeightsError
from segproto.model.fingerprint import LATER, NOT_FEATURES, backbone_hash, encoder_hash


def narrow(**settings):
    torch.manual_seed(0)
    return build_encoder(EncoderConfig(name="unet", width=4, dim=3, rates=[1, 2], **settings)).eval()


def test_published_counts_and_names():
    shapes = {k: tuple(v.shape) for k, v in build_encoder(EncoderConfig(name="unet")).state_dict().items()}
    assert len(shapes) == 126
    trained = [k for k in shapes if not k.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert round(sum(torch.Size(shapes[k]).numel() for k in trained) / 1e6, 2) == 31.19
    assert shapes["backbone.inc.double_conv.0.weight"] == (64, 3, 3, 3)
    assert shapes["backbone.down1.maxpool_conv.1.double_conv.0.weight"] == (128, 64, 3, 3)
    assert shapes["backbone.up1.up.weight"] == (1024, 512, 2, 2)
    assert shapes["backbone.up1.conv.double_conv.0.weight"] == (512, 1024, 3, 3)
    assert shapes["backbone.outc.conv.weight"] == (64, 64, 1, 1)
    assert shapes["neck.c0.weight"] == (64, 64, 3, 3)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize(("height", "width"), [(16, 32), (37, 50)])
def test_grid_covers_the_padded_image(stride, height, width):
    encoder = narrow(output_stride=stride)
    out = encoder(torch.randn(2, 3, height, width))
    padded = encoder.padded_size(height, width)
    assert out.shape == (2, 6, padded[0] // stride, padded[1] // stride)
    assert encoder.backbone.num_features == 4


def test_strided_variant_is_the_published_one_cut_short():
    full, half = UNet(4).eval(), UNet(4, output_stride=2).eval()
    shared = {k: v for k, v in full.state_dict().items() if not k.startswith(("up4", "outc"))}
    missing, unexpected = half.load_state_dict(shared, strict=False)
    assert set(missing) == {"outc.conv.weight", "outc.conv.bias"}
    assert not unexpected
    assert "up4.up.weight" not in half.state_dict()


def test_decoder_order_is_skip_then_up():
    torch.manual_seed(0)
    net = UNet(2).eval()
    x = torch.randn(1, 3, 16, 16)
    levels = [net.inc(x)]
    for down in (net.down1, net.down2, net.down3, net.down4):
        levels.append(down(levels[-1]))
    y = levels[4]
    for up, skip in zip((net.up1, net.up2, net.up3, net.up4), levels[3::-1], strict=True):
        y = up.conv(torch.cat([skip, up.up(y)], 1))
    torch.testing.assert_close(net(x), net.outc.conv(y))


def test_other_strides_are_refused():
    with pytest.raises(ConfigError, match="1, 2 or 4"):
        narrow(output_stride=8)


def test_frozen_backbone_keeps_its_norms_in_train_mode():
    encoder = narrow(frozen=True).train()
    before = {k: v.clone() for k, v in encoder.backbone.state_dict().items()}
    encoder(torch.randn(2, 3, 16, 16)).sum().backward()
    assert encoder.neck.training
    assert all(torch.equal(before[k], v) for k, v in encoder.backbone.state_dict().items())
    assert all(p.grad is None for p in encoder.backbone.parameters())
    assert all(p.grad is not None for p in encoder.neck.parameters())
    free = narrow().train()
    free(torch.randn(2, 3, 16, 16))
    assert not torch.equal(before["inc.double_conv.1.running_mean"], free.backbone.inc.double_conv[1].running_mean)


def test_cached_path_equals_the_full_one():
    encoder = narrow(output_stride=4)
    x = torch.randn(1, 3, 33, 18)
    assert torch.equal(encoder.from_backbone(encoder.backbone_features(x)), encoder(x))


def test_identity_neck_gives_one_scale():
    encoder = narrow(neck="identity", squash="none")
    x = torch.randn(1, 3, 16, 16)
    assert encoder.scale_dims == (4,)
    assert torch.equal(encoder(x), encoder.backbone(x))


def test_msc_is_the_elementwise_maximum():
    encoder = narrow(msc=[0.5], squash="none")
    plain = narrow(squash="none")
    x = torch.randn(1, 3, 32, 32)
    small = plain(torch.nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear"))
    up = torch.nn.functional.interpolate(small, (32, 32), mode="bilinear")
    outputs = encoder.forward_scales(x)
    assert len(outputs) == 3
    torch.testing.assert_close(outputs[1], small)
    torch.testing.assert_close(outputs[2], torch.maximum(plain(x), up))


def test_padding_is_said_once(caplog):
    encoder = narrow(output_stride=4)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            encoder(torch.zeros(1, 3, 17, 20))
    assert [r.getMessage() for r in caplog.records] == [
        "images are padded (bottom, right): 17x20 to 20x20, the encoder needs multiples of 4"
    ]


def test_weights_file(tmp_path):
    source = UNet(4)
    save_file(source.state_dict(), tmp_path / "unet.safetensors")
    encoder = narrow(weights=tmp_path / "unet.safetensors")
    assert torch.equal(encoder.backbone.outc.conv.bias, source.outc.conv.bias)
    torch.save(source.state_dict(), tmp_path / "unet.pth")
    assert backbone_hash(narrow(weights=tmp_path / "unet.pth")) == backbone_hash(encoder)
    with pytest.raises(WeightsError, match="no such weights file"):
        narrow(weights=tmp_path / "absent.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not a file")
    with pytest.raises(WeightsError, match=r"bad\.safetensors: not read: .*; expected a safetensors file"):
        narrow(weights=tmp_path / "bad.safetensors")
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="expected tensors by name"):
        narrow(weights=tmp_path / "other.pth")


def test_pickled_modules_are_refused(tmp_path):
    torch.save(UNet(1), tmp_path / "module.pth")
    with pytest.raises(WeightsError, match=r"module\.pth"):
        narrow(weights=tmp_path / "module.pth")


def test_hashes_follow_what_decides_features():
    encoder = narrow()
    assert encoder_hash(encoder) == encoder_hash(narrow(frozen=True))
    assert encoder_hash(encoder) != encoder_hash(narrow(squash="relu"))
    assert backbone_hash(encoder) == backbone_hash(narrow(squash="relu"))
    assert len(encoder_hash(encoder)) == 64
    before = encoder_hash(encoder), backbone_hash(encoder)
    with torch.no_grad():
        encoder.neck.c1.weight[-1, -1, -1, -1] *= -1
    assert encoder_hash(encoder) != before[0]
    assert backbone_hash(encoder) == before[1]
    with torch.no_grad():
        encoder.backbone.outc.conv.bias[-1] *= -1
    assert backbone_hash(encoder) != before[1]


def test_a_setting_that_came_later_leaves_the_hashes_of_older_models_alone() -> None:
    first = {"name", "backbone", "output_stride", "layers", "input_scale", "neck", "rates", "dim", "fusion", "width"}
    settings = EncoderConfig().model_dump(mode="json")
    hashed = set(settings) - NOT_FEATURES - {key for key, value in LATER.items() if settings[key] == value}
    assert hashed == first | {"msc", "squash"}, "name a new setting in LATER with its default, or every model is stale"
