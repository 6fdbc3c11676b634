"""ResNet-38d: its names, sizes, frozen parts and files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.encoders.resnet38 import ResNet38d, load_resnet38d, rename_mxnet
from segproto.errors import WeightsError
from segproto.model.heads import LinearHead


@pytest.fixture(scope="module")
def backbone() -> ResNet38d:
    with torch.device("meta"):
        return ResNet38d()


def test_the_published_state(backbone: ResNet38d) -> None:
    state = backbone.state_dict()
    assert len(state) == 228
    assert sum(p.numel() for p in backbone.parameters()) == 105_070_912
    assert sum(isinstance(m, nn.Conv2d) for m in backbone.modules()) == 43
    assert sum(isinstance(m, nn.BatchNorm2d) for m in backbone.modules()) == 37
    assert state["b6.conv_branch2b1.weight"].shape == (1024, 512, 3, 3)
    assert {"conv1a.weight", "b4_5.bn_branch2b1.running_var", "b7.bn_branch2b2.bias", "bn7.weight"} <= state.keys()


@pytest.mark.parametrize("size", [(101, 75), (64, 64), (9, 8)])
def test_grid(backbone: ResNet38d, size: tuple[int, int]) -> None:
    h, w = (-(-s // 8) for s in size)
    taps = backbone.taps(torch.empty(2, 3, *size, device="meta"))
    assert taps.conv6.shape == (2, 4096, h, w)
    assert taps.conv5.shape == (2, 1024, h, w)
    assert taps.conv4.shape == (2, 512, h, w)
    assert taps.conv3.shape == (2, 256, -(-size[0] // 4), -(-size[1] // 4))


def test_norms_and_first_blocks_do_not_train(backbone: ResNet38d) -> None:
    backbone.train()
    assert not any(m.training for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))
    assert backbone.b6.dropout_2b1.training
    frozen = [n for n, p in backbone.named_parameters() if not p.requires_grad and "conv" in n and p.ndim == 4]
    assert len(frozen) == 8
    backbone.eval()


def mxnet_name(key: str) -> str:
    """The name in MXNet's file, by the published rule read backwards."""
    block, *rest = key.split(".")
    leaf = {"bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}.get(rest[-1], rest[-1])
    prefix = "aux:" if leaf.startswith("moving") else "arg:"
    if len(rest) == 1:
        return f"{prefix}{block}_{'gamma' if block == 'bn7' and leaf == 'weight' else leaf}"
    kind, branch = rest[0].split("_", 1)
    place = block[1:].replace("_", "b") if "_" in block else block[1:] + "a"
    leaf = "gamma" if kind == "bn" and leaf == "weight" else leaf
    return f"{prefix}{'res' if kind == 'conv' else 'bn'}{place}_{branch}_{leaf}"


def test_names_of_the_mxnet_file(backbone: ResNet38d) -> None:
    wanted = {key for key in backbone.state_dict() if not key.endswith("num_batches_tracked")}
    foreign = {mxnet_name(key): torch.zeros(1) for key in wanted}
    assert "arg:res4b3_branch2a_weight" in foreign
    assert "aux:bn4a_branch2a_moving_mean" in foreign
    foreign |= {"arg:linear1000_weight": torch.zeros(1), "arg:linear1000_bias": torch.zeros(1)}
    assert rename_mxnet(foreign).keys() == wanted


def test_a_file_of_a_whole_network_fits(tmp_path: Path, backbone: ResNet38d, monkeypatch: pytest.MonkeyPatch) -> None:
    small = nn.Module()
    small.conv1a = nn.Conv2d(3, 4, 3, bias=False)
    small.bn7 = nn.BatchNorm2d(4)
    state = {f"backbone.{k}": v + 1 for k, v in small.state_dict().items() if "tracked" not in k}
    save_file(state | {"cls_conv.weight": torch.zeros(2, 4)}, tmp_path / "net.safetensors")
    load_resnet38d(small, tmp_path / "net.safetensors")  # type: ignore[arg-type]
    assert torch.equal(small.conv1a.weight, state["backbone.conv1a.weight"])
    with pytest.raises(WeightsError, match="no such weights file"):
        load_resnet38d(small, tmp_path / "none.params")  # type: ignore[arg-type]
    (tmp_path / "bad.params").write_bytes(b"no mxnet")
    with pytest.raises(WeightsError):
        load_resnet38d(small, tmp_path / "bad.params")  # type: ignore[arg-type]


def test_deeplab_largefov_has_the_published_size() -> None:
    with torch.device("meta"):
        encoder = build_encoder(EncoderConfig(name="resnet38d", neck="largefov", squash="none"))
        head = LinearHead(encoder.num_features, 21)
    parts = (encoder.backbone, encoder.neck, head)
    assert sum(len(p.state_dict()) for p in parts) == 242
    assert sum(v.numel() for p in parts for v in p.parameters()) == 124_220_245
    assert set(encoder.neck.state_dict()) >= {
        "conv_fov.weight",
        "bn_fov.bias",
        "conv_fov2.weight",
        "bn_fov2.running_var",
    }
    encoder.eval()
    assert encoder(torch.empty(1, 3, 60, 70, device="meta")).shape == (1, 512, 8, 9)
