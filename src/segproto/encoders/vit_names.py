"""Weights of plain ViTs under the names of other codes, brought to timm's."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

TRANSFORMERS = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.register_tokens", "register_tokens"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.output\.dense\.|\.attention\.o_proj\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale(\d)\.lambda1", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)
QKV = re.compile(r"(blocks\.\d+)\.attention\.(?:attention\.)?(q|k|v)(?:uery|ey|alue|_proj)\.(weight|bias)")
DROPPED = re.compile(r"embeddings\.mask_token|mask_token|pooler\.|head\.|fc_norm\.|classifier\.")


def timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a plain ViT in timm's names; what is no such state dict is returned as it is.

    Known are the files of DINO and DINOv2 (also inside a training code's ``module.``, ``backbone.`` or ``net.model.``),
    and of transformers' ViT and Dinov2 (names of version 4 and 5). Heads, poolers and mask tokens are left out.

    Args:
        state: tensors by name.
    """
    ends = ("embeddings.cls_token", "cls_token")
    prefix = next((key[: -len(end)] for key in state for end in ends if key.endswith(end)), None)
    if prefix is None:
        return dict(state)
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    foreign = "embeddings.cls_token" in own
    if not (foreign or prefix or "register_tokens" in own):
        return dict(state)
    own = {k: v for k, v in own.items() if not DROPPED.match(k)}
    if foreign:
        own = from_transformers(own)
    return with_registers(own)


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of transformers' modules to timm's; query, key and value become one matrix."""
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for old, value in state.items():
        name = old
        for pattern, new in TRANSFORMERS:
            name = re.sub(pattern, new, name)
        projection = QKV.fullmatch(name)
        if projection:
            parts.setdefault(f"{projection[1]}.attn.qkv.{projection[3]}", {})[projection[2]] = value
        else:
            renamed[name] = value
    joined = {name: torch.cat([p[k] for k in "qkv"]) for name, p in parts.items() if len(p) == 3}
    return renamed | joined


def with_registers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2 with registers: timm adds the class token's position to it and keeps positions of patches alone."""
    if "register_tokens" not in state:
        return state
    out = dict(state)
    out["reg_token"] = out.pop("register_tokens")
    position = out["pos_embed"]
    out["cls_token"], out["pos_embed"] = out["cls_token"] + position[:, :1], position[:, 1:]
    return out
