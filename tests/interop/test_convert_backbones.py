"""Original backbone files become weights that an encoder takes, or whole models."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from published_modules import aspp_forward, deeplab, deeplab_forward, published_classes, randomise
from safetensors import safe_open
from typer.testing import CliRunner

from segproto import api
from segproto.cli.app import app
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.errors import ConfigError, WeightsError
from segproto.model.segmenter import Segmenter

NAMES = ["DeepLabV2", "_Stem", "_ResLayer", "_Bottleneck", "_ConvBnReLU", "_ASPP"]


def encoder_settings(actual: dict[str, Any]) -> dict[str, str]:
    return {key.removeprefix("encoder."): value for key, value in actual["settings"].items()}


@pytest.mark.parametrize(
    ("source", "backbone", "content"),
    [
        ("resnet", "resnet18", lambda s: {**s, "fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}),
        ("resnet", "resnet50", lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}),
        ("dino", "vit_small_patch16_224.dino", lambda s: s),
        (
            "dino",
            "vit_small_patch8_224.dino",
            lambda s: {
                "student": {},
                "teacher": {f"backbone.{k}": v for k, v in s.items()} | {"head.mlp.0.weight": torch.zeros(2)},
                "args": argparse.Namespace(arch="vit_small"),
                "epoch": 1,
            },
        ),
        ("dino", "vit_small_patch14_dinov2.lvd142m", lambda s: {**s, "mask_token": torch.zeros(1, 384)}),
        pytest.param("hrnet", "hrnet_w18", lambda s: {**s, "classifier.bias": torch.zeros(9)}, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_weights_fit_their_encoder(tmp_path: Path, source: str, backbone: str, content: Any) -> None:
    torch.manual_seed(0)
    net: Any = timm.create_model(backbone, num_classes=0)
    torch.save(content(net.state_dict()), tmp_path / "a.pth")
    converted = api.convert(source, tmp_path / "a.pth", out=tmp_path / "w.safetensors")
    settings = encoder_settings(converted)
    assert settings["backbone"] == backbone
    encoder = build_encoder(EncoderConfig(**settings, neck="identity"))  # type: ignore[arg-type]
    own = {k.removeprefix("backbone.taps.net."): v for k, v in encoder.state_dict().items()}
    shared = [k for k in net.state_dict() if k in own]
    assert len(shared) > 0.9 * len(own)
    for name in shared:
        torch.testing.assert_close(own[name], net.state_dict()[name])
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert json.loads(file.metadata()["converted"])["source"] == source


@pytest.mark.parametrize("whole", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_deeplab_pytorch(tmp_path: Path, whole: bool) -> None:
    """BGR in 0..255 less Caffe's mean, fused over input scales: the published logits of the same picture."""
    with published_classes(*(f"libs.{n}" for n in NAMES)) as c:
        net = deeplab(c)
    del net.aspp
    randomise(net, 5)
    state = dict(net.state_dict())
    state["layer1.conv1.conv.weight"] /= 100  # inputs are about 100 times as large
    if whole:
        for i in range(4):
            state[f"aspp.c{i}.weight"] = torch.randn(5, 2048, 3, 3) * 0.02
            state[f"aspp.c{i}.bias"] = torch.randn(5)
    torch.save({f"base.{k}": v for k, v in state.items()} if whole else state, tmp_path / "a.pth")
    picture = torch.randint(0, 256, (3, 65, 81), dtype=torch.uint8)
    bgr = (picture.double() - torch.tensor([122.675, 116.669, 104.008]).double().view(3, 1, 1)).flip(0)[None]
    weights = {k: v.double() for k, v in state.items()}
    if not whole:
        converted = api.convert("deeplab-pytorch", tmp_path / "a.pth", out=tmp_path / "w.safetensors")
        encoder = build_encoder(EncoderConfig(**encoder_settings(converted))).eval()  # type: ignore[arg-type]
        own = encoder.backbone(encoder.normalisation(picture)[None])
        wanted = deeplab_forward(bgr, weights)
        assert F.cosine_similarity(own.double().flatten(), wanted.flatten(), dim=0) > 0.99
        return
    api.convert("deeplab-pytorch", tmp_path / "a.pth", out=tmp_path / "m")
    model = Segmenter.load(tmp_path / "m")
    outs = []
    for p in (1, 0.5, 0.75):
        x = bgr if p == 1 else F.interpolate(bgr, scale_factor=p, mode="bilinear", align_corners=False)
        outs.append(aspp_forward(deeplab_forward(x, weights), weights, concat=False))
    ups = [F.interpolate(o, outs[0].shape[-2:], mode="bilinear", align_corners=False) for o in outs]
    wanted = torch.stack(ups).amax(0)
    with torch.no_grad():
        converted = model.grid_logits(model.encoder.normalisation(picture)[None])
    torch.testing.assert_close(converted.double(), wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


def test_command(tmp_path: Path) -> None:
    net: Any = timm.create_model("resnet18", num_classes=0)
    torch.save(net.state_dict(), tmp_path / "a.pth")
    run = CliRunner().invoke(app, ["convert", "--list"])
    assert run.exit_code == 0
    assert "scaleprotoseg" in run.output
    assert "zenodo.org" in run.output
    arguments = ["convert", "resnet", str(tmp_path / "a.pth"), "--out", str(tmp_path / "w.safetensors")]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    assert f"encoder.backbone=resnet18 encoder.weights={tmp_path}/w.safetensors" in run.output
    run = CliRunner().invoke(app, [*arguments, "norm=legacy"])
    assert isinstance(run.exception, ConfigError)
    assert "no such setting" in str(run.exception)


def test_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, file)
    with pytest.raises(ConfigError, match=r"'resnets' is unknown; did you mean resnet\?"):
        api.convert("resnets", file, out=tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="are those of no ResNet-18"):
        api.convert("resnet", file, out=tmp_path / "w.safetensors")
    for source in ("hrnet", "dino", "deeplab-pytorch"):
        with pytest.raises(WeightsError, match=r"a\.pth: "):
            api.convert(source, file, out=tmp_path / "w.safetensors")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(
        ConfigError, match=r"mine: holds thesis\.tex and would be replaced as a whole; name a new folder"
    ):
        api.convert("resnet", file, out=tmp_path / "mine")
    net: Any = timm.create_model("resnet18", num_classes=0)
    torch.save(net.state_dict(), file)
    with pytest.raises(ConfigError, match=r"name a \.safetensors file"):
        api.convert("resnet", file, out=tmp_path / "w")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pth", "mine"]
