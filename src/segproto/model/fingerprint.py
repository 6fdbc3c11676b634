"""Hashes of encoders: whether prototypes are still real patches, and which cached features belong to which backbone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from segproto.encoders.base import Encoder

if TYPE_CHECKING:
    from segproto.model.segmenter import Segmenter

# where tensors came from, who trains them, and what is done with features: not what an encoder computes
NOT_FEATURES = {"weights", "pretrained", "frozen", "enlarge", "neck_momentum"}
# Settings that came later: at these values a hash is as before there were such.
LATER = {
    "convs": 1, "projection": False, "auxiliary": None, "code_dropout": "off", "reduce": None, "layer_norm": False,
    "pad": None,
    "finer": None,
    "bands": 3,
    "network": None,
}  # fmt: skip
BACKBONE = {"name", "backbone", "output_stride", "layers", "input_scale", "width", "bands", "network"}


def encoder_hash(encoder: Encoder) -> str:
    """SHA-256 (64 hex digits) of everything that decides an encoder's features.

    That is the settings without paths, the normalisation, and all tensors in the order of their names; the
    device does not matter.
    """
    settings = as_before(encoder.config.model_dump(mode="json", exclude=NOT_FEATURES))
    return digest(encoder, settings, encoder.state_dict())


def backbone_hash(encoder: Encoder) -> str:
    """The same for the backbone alone: equal for all necks and squashings on the same frozen backbone."""
    settings = as_before(encoder.config.model_dump(mode="json", include=BACKBONE))
    if encoder.config.pad is False:
        settings["pad"] = False
    return digest(encoder, settings, encoder.backbone.state_dict())


def as_before(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that came later and say nothing new."""
    return {key: value for key, value in settings.items() if key not in LATER or value != LATER[key]}


def model_hash(segmenter: Segmenter) -> str:
    """SHA-256 of everything that decides a model's logits."""
    settings = {"encoder": encoder_hash(segmenter.encoder), "head": segmenter.head.kind}
    return digest(segmenter.encoder, settings, segmenter.head.state_dict())


def digest(encoder: Encoder, settings: dict[str, Any], state: Mapping[str, Tensor]) -> str:
    """SHA-256 of settings, normalisation and tensors."""
    head = {"settings": settings, "normalisation": encoder.normalisation, "multiple": encoder.stride_multiple}
    sha = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
