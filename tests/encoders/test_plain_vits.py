"""Plain ViTs: weights under the names of DINO, DINOv2 and transformers; positions by the reference rule."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.encoders.position import resample_position_embedding
from segproto.encoders.vit_names import timm_names
from segproto.errors import WeightsError

V1, V2, REGISTERS = "vit_tiny_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"


def to_transformers(state: dict[str, Tensor], version: int, dino: int) -> dict[str, Tensor]:
    """timm's names to those of transformers 4 or 5, for its ViT (dino 1) or Dinov2 (dino 2), written by hand."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in ("cls_token", "mask_token"):
            out[f"embeddings.{name}"] = value
        elif name == "pos_embed":
            out["embeddings.position_embeddings"] = value
        elif name.startswith("patch_embed.proj."):
            out[f"embeddings.patch_embeddings.projection.{name.rpartition('.')[2]}"] = value
        elif name.startswith("norm."):
            out[f"layernorm.{name.rpartition('.')[2]}"] = value
        elif name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            layer = f"layers.{number}" if version == 5 and dino == 1 else f"encoder.layer.{number}"
            end = rest.rpartition(".")[2]
            if rest.startswith("attn.qkv."):
                words = ("q_proj", "k_proj", "v_proj") if version == 5 else ("query", "key", "value")
                inner = "attention" if version == 5 else "attention.attention"
                for word, part in zip(words, value.chunk(3), strict=True):
                    out[f"{layer}.{inner}.{word}.{end}"] = part.clone()
                continue
            table = {
                "attn.proj": "attention.o_proj" if version == 5 else "attention.output.dense",
                "norm1": "layernorm_before" if dino == 1 else "norm1",
                "norm2": "layernorm_after" if dino == 1 else "norm2",
                "mlp.fc1": "intermediate.dense" if (version, dino) == (4, 1) else "mlp.fc1",
                "mlp.fc2": "output.dense" if (version, dino) == (4, 1) else "mlp.fc2",
            }
            key = next((table[k] for k in table if rest.startswith(f"{k}.")), None)
            if rest.startswith("ls"):
                out[f"{layer}.layer_scale{rest[2]}.lambda1"] = value
            else:
                assert key is not None, rest
                out[f"{layer}.{key}.{end}"] = value
    return out


def weights(name: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0)
    return {
        k: torch.randn_like(v) * 0.02 + (1.0 if "norm" in k and k.endswith("weight") else 0.0)
        for k, v in net.state_dict().items()
    }


def features(name: str, state: dict[str, Tensor], path: Path, images: Tensor) -> Tensor:
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    encoder = build_encoder(EncoderConfig(backbone=name, weights=path, neck="identity", squash="none")).eval()
    with torch.no_grad():
        out: Tensor = encoder(images)
    return out


@pytest.mark.parametrize(("name", "dino"), [(V1, 1), (V2, 2)])
def test_files_of_other_codes_give_the_same_features(name: str, dino: int, tmp_path: Path) -> None:
    state = weights(name)
    images = torch.randn(1, 3, 28, 42) if dino == 2 else torch.randn(1, 3, 32, 48)
    expected = features(name, state, tmp_path / "timm.safetensors", images)
    files = {
        "wrapped": {f"net.model.{k}": v for k, v in state.items()} | {"linear_probe.bias": torch.zeros(3)},
        "module": {f"module.backbone.{k}": v for k, v in state.items()}
        | {"module.head.mlp.0.weight": torch.zeros(2, 2)},
        "hf4": to_transformers(state, 4, dino),
        "hf5": to_transformers(state, 5, dino),
        "hf4_vit": {f"vit.{k}": v for k, v in to_transformers(state, 4, dino).items()}
        | {"classifier.bias": torch.zeros(2)},
        "pooled": to_transformers(state, 5, dino) | {"pooler.dense.bias": torch.zeros(2)},
    }
    if dino == 2:
        files["original"] = state | {"mask_token": torch.zeros(1, 384)}
    for label, value in files.items():
        outputs = features(name, value, tmp_path / f"{label}.safetensors", images)
        assert torch.equal(outputs, expected), label


@pytest.mark.parametrize("dino", [1, 2])
def test_names_are_those_that_transformers_has(dino: int) -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    if dino == 1:
        config = transformers.ViTConfig(**small, intermediate_size=96, layer_norm_eps=1e-6)
        model = transformers.ViTModel(config, add_pooling_layer=False)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**small))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    net = timm.create_model(
        "vit_small_patch14_dinov2" if dino == 2 else "vit_small_patch16_224",
        embed_dim=24, depth=2, num_heads=2, img_size=28, patch_size=14, num_classes=0,
    ).eval()  # fmt: skip
    state = timm_names(model.state_dict())
    assert state.keys() == net.state_dict().keys()
    net.load_state_dict(state)
    images = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        theirs = model.eval()(images).last_hidden_state
        torch.testing.assert_close(net.forward_features(images), theirs, atol=1e-5, rtol=1e-4)


def test_registers_take_over_the_class_tokens_position(tmp_path: Path) -> None:
    state = weights(REGISTERS)
    cls_position = torch.randn(1, 1, 384)
    original = {k: v for k, v in state.items() if k != "reg_token"}
    original["register_tokens"] = state["reg_token"]
    original["cls_token"] = state["cls_token"] - cls_position
    original["pos_embed"] = torch.cat([cls_position, state["pos_embed"]], 1)
    images = torch.randn(1, 3, 28, 42)
    expected = features(REGISTERS, state, tmp_path / "a.safetensors", images)
    torch.testing.assert_close(
        features(REGISTERS, original, tmp_path / "b.safetensors", images), expected, atol=1e-5, rtol=1e-5
    )


def test_other_state_dicts_are_left_alone_and_wrong_ones_named(tmp_path: Path) -> None:
    plain = {"conv1.weight": torch.zeros(2)}
    assert timm_names(plain) == plain
    state = to_transformers(weights(V1), 4, 1)
    del state["encoder.layer.3.attention.attention.key.weight"]
    with pytest.raises(WeightsError, match=r"blocks\.3\.attn\.qkv\.weight"):
        features(V1, state, tmp_path / "x.safetensors", torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize(("side", "grid"), [(28, (40, 40)), (28, (40, 61)), (37, (23, 23)), (37, (23, 31))])
def test_positions_follow_the_reference_rule(side: int, grid: tuple[int, int]) -> None:
    """DINO's and DINOv2's own call, within 1e-5, and its formula in float64."""
    torch.manual_seed(0)
    table = torch.randn(1, 1 + side * side, 8)
    resampled = resample_position_embedding(table, grid, 1)
    patches = table[:, 1:].reshape(1, side, side, 8).permute(0, 3, 1, 2)
    reference = F.interpolate(
        patches, scale_factor=((grid[0] + 0.1) / side, (grid[1] + 0.1) / side), mode="bicubic", align_corners=False
    )
    assert reference.shape[-2:] == grid
    torch.testing.assert_close(resampled[:, 1:], reference.permute(0, 2, 3, 1).reshape(1, -1, 8), atol=1e-5, rtol=0)

    def weight(t: float) -> float:
        t = abs(t)
        if t <= 1:
            return 1.25 * t**3 - 2.25 * t**2 + 1
        return -0.75 * t**3 + 3.75 * t**2 - 6 * t + 3 if t < 2 else 0.0

    rows = []
    for count in grid:
        matrix = torch.zeros(count, side, dtype=torch.float64)
        for i in range(count):
            source = (i + 0.5) / ((count + 0.1) / side) - 0.5
            first = int(source // 1) - 1
            for tap in range(first, first + 4):
                matrix[i, min(max(tap, 0), side - 1)] += weight(source - tap)
        rows.append(matrix)
    exact = torch.einsum("yi,xj,bcij->bcyx", *rows, patches.double())
    # the reference itself computes in float32: up to 1e-5 of its largest entry from the exact formula
    exact = exact.permute(0, 2, 3, 1).reshape(1, -1, 8)
    torch.testing.assert_close(resampled[:, 1:].double(), exact, atol=1e-5 * float(table.abs().max()), rtol=0)
    assert torch.equal(resampled[:, :1], table[:, :1])
