"""The published checkpoint's names and shapes with random weights, against its forward pass restated plainly."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segproto.errors import ConfigError, WeightsError
from segproto.interop.conversion import Options
from segproto.methods.nonparametric.convert import convert
from segproto.model.segmenter import Segmenter

CLASSES, PER_CLASS = 19, 10
IMAGE = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
BGR_MEAN, BGR_STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def published(backbone: str, width: int) -> tuple[dict[str, Tensor], nn.Module]:
    """A state dict as released (without ``module.``), and the backbone with bilinear, aligned fusion."""
    torch.manual_seed(0)
    net = timm.create_model(backbone, features_only=True, feature_location="", out_indices=(1, 2, 3, 4))
    for module in net.modules():
        if isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "bilinear", True
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # one pass sets statistics that keep activations in range
    net.train()(torch.randn(2, 3, 64, 64))
    state = {f"backbone.{name}": value for name, value in net.eval().state_dict().items()}
    state["prototypes"] = 0.02 * torch.randn(CLASSES, PER_CLASS, width)
    state["cls_head.0.weight"] = torch.randn(width, width, 3, 3) / (3 * width**0.5)
    state["cls_head.0.bias"] = torch.randn(width)
    for name, value in nn.BatchNorm2d(width).state_dict().items():
        state[f"cls_head.1.0.{name}"] = value if value.ndim == 0 else torch.rand(width) + 0.5
    for copy in ("proj", "mlp2"):
        for layer in (0, 2):
            torch.manual_seed(layer)
            state[f"proj_head.{copy}.{layer}.weight"] = torch.randn(width, width, 1, 1) / width**0.5
            state[f"proj_head.{copy}.{layer}.bias"] = torch.randn(width)
    for name, size in (("feat_norm", width), ("mask_norm", CLASSES)):
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.rand(size) + 0.5, 0.3 * torch.randn(size)
    return state, net


def to_file(state: dict[str, Tensor], path: Path) -> Path:
    torch.save({"config_dict": {"dataset": "x"}, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    return path


def features_as_published(state: dict[str, Tensor], net: nn.Module, rgb: Tensor) -> Tensor:
    """Image (3, H, W) to the map before the projection."""
    bgr = rgb.flip(0).float() / 255
    x = ((bgr - BGR_MEAN[:, None, None]) / BGR_STD[:, None, None])[None]
    maps = net(x)
    size = maps[0].shape[-2:]
    x = torch.cat([maps[0], *(F.interpolate(m, size, mode="bilinear", align_corners=True) for m in maps[1:])], 1)
    x = F.conv2d(x, state["cls_head.0.weight"], state["cls_head.0.bias"], padding=1)
    norm = [state[f"cls_head.1.0.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
    return F.relu(F.batch_norm(x, *norm))


def logits_as_published(state: dict[str, Tensor], net: nn.Module, rgb: Tensor, axis: int = 3) -> Tensor:
    x = features_as_published(state, net, rgb)
    x = F.relu(F.conv2d(x, state["proj_head.proj.0.weight"], state["proj_head.proj.0.bias"]))
    x = F.conv2d(x, state["proj_head.proj.2.weight"], state["proj_head.proj.2.bias"])
    x = F.normalize(x, p=2, dim=axis)
    _, width, h, w = x.shape
    e = x.permute(0, 2, 3, 1).reshape(-1, width)
    e = F.normalize(F.layer_norm(e, (width,), state["feat_norm.weight"], state["feat_norm.bias"]), dim=1)
    s = torch.einsum("nd,ckd->nkc", e, F.normalize(state["prototypes"], dim=-1))
    z = F.layer_norm(s.amax(1), (CLASSES,), state["mask_norm.weight"], state["mask_norm.bias"])
    return z.view(1, h, w, CLASSES).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def small() -> tuple[dict[str, Tensor], nn.Module]:
    return published("hrnet_w18", 270)


@torch.no_grad()
def test_logits_are_the_published_networks(small: tuple[dict[str, Tensor], nn.Module], tmp_path: Path) -> None:
    state, net = small
    path = to_file(state, tmp_path / "proto.pth")
    model = convert(path, Options())
    expected = logits_as_published(state, net, IMAGE)
    logits = model.grid_logits(model.encoder.normalisation(IMAGE)[None])
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    assert float(expected.std()) > 0.3
    assert model.classes.names[0] == "road"
    card = model.card["converted"]
    assert card["tensors_used"] == len(state) - 4
    assert [len(names) for names in card["left_out"].values()] == [4]
    other = convert(path, Options(values={"projection_norm": "channel"}))
    changed = other.grid_logits(model.encoder.normalisation(IMAGE)[None])
    torch.testing.assert_close(changed, logits_as_published(state, net, IMAGE, axis=1), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(changed, logits, atol=1e-2)
    model.save(tmp_path / "model")
    again = Segmenter.load(tmp_path / "model")
    assert torch.equal(again.predict(IMAGE), model.predict(IMAGE))  # the order of colours is in the artefact
    assert again.explain(IMAGE).completeness_error() < 1e-4
    released = F.interpolate(expected, IMAGE.shape[-2:], mode="bilinear", align_corners=True)
    assert (again.predict(IMAGE) == released[0].argmax(0)).float().mean() > 0.999


@torch.no_grad()
def test_the_parametric_twin_converts(small: tuple[dict[str, Tensor], nn.Module], tmp_path: Path) -> None:
    state, net = small
    kept = {k: v for k, v in state.items() if k.startswith(("backbone.", "cls_head."))}
    kept["cls_head.3.weight"] = torch.randn(CLASSES, 270, 1, 1)
    model = convert(to_file(kept, tmp_path / "twin.pth"), Options())
    expected = F.conv2d(features_as_published(state, net, IMAGE), kept["cls_head.3.weight"])
    logits = model.grid_logits(model.encoder.normalisation(IMAGE)[None])
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-2)


def test_every_tensor_must_be_known_and_fit(small: tuple[dict[str, Tensor], nn.Module], tmp_path: Path) -> None:
    state, _ = small
    cases = {
        "more": (state | {"cls_head.9.weight": torch.zeros(1)}, r"1 tensors are not known here: cls_head\.9\.weight"),
        "less": ({k: v for k, v in state.items() if k != "feat_norm.bias"}, r"feat_norm\.bias is missing"),
        "shape": (
            state | {"mask_norm.weight": torch.zeros(18)},
            r"mask_norm\.weight has shape \(18,\), expected \(19,\)",
        ),
    }
    for name, (changed, message) in cases.items():
        with pytest.raises(WeightsError, match=message):
            convert(to_file(changed, tmp_path / f"{name}.pth"), Options())
    with pytest.raises(ConfigError, match="projection_norm=row: expected width_legacy, channel, none"):
        convert(to_file(state, tmp_path / "row.pth"), Options(values={"projection_norm": "row"}))


@pytest.mark.slow
@torch.no_grad()
def test_the_published_size_has_1850_entries(tmp_path: Path) -> None:
    state, net = published("hrnet_w48", 720)
    assert len(state) == 1850
    model = convert(to_file(state, tmp_path / "w48.pth"), Options())
    logits = model.grid_logits(model.encoder.normalisation(IMAGE)[None])
    torch.testing.assert_close(logits, logits_as_published(state, net, IMAGE), rtol=1e-3, atol=1e-3)
    assert sum(p.numel() for p in model.parameters()) == 71_032_598
    assert model.head.bank.vectors.numel() == 136_800
