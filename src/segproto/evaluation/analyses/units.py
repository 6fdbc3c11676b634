"""What the analyses ask of any head with prototypes: distances, which ones are used, names, maps."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from segproto.errors import ConfigError
from segproto.model.evidence import source_of
from segproto.model.patches import stored_patch
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import Bank
from segproto.prototypes.grouping import Grouping

BLANK = (236, 238, 240)


def require_bank(model: Segmenter) -> Bank:
    """The model's prototypes.

    Raises:
        ConfigError: a black box.
    """
    bank = model.head.bank
    if bank is None:
        raise ConfigError("a black box has no prototypes to analyse; expected a prototype model")
    return bank


def require_groups(model: Segmenter) -> Grouping:
    """The model's groups.

    Raises:
        ConfigError: a model without groups.
    """
    grouping = model.head.grouping
    if grouping is None:
        raise ConfigError(f"a {model.head.kind} head has no groups to analyse; expected a grouped model")
    return grouping


def prototype_distances(model: Segmenter, features: Tensor) -> Tensor:
    """Features (1, F, h, w) to squared distances (P, h, w); between unit vectors where the head compares directions."""
    require_bank(model)
    return model.head.distances(model.head.cell_features(features))[0]


def used_prototypes(model: Segmenter) -> Tensor:
    """bool (P,): whether any group, or for heads without groups any readout weight, uses a prototype."""
    head, bank = model.head, require_bank(model)
    if head.grouping is not None:
        return head.grouping.used_prototypes().cpu()
    weights = head.unit_weights()
    if weights is not None:
        return (weights.detach() != 0).any(0).cpu()
    return torch.ones(bank.num_prototypes, dtype=torch.bool)


def prototype_name(model: Segmenter, prototype: int) -> str:
    """``car #17, scale 2``, without the scale where there is only one."""
    bank = require_bank(model)
    name = f"{model.classes.names[int(bank.class_of[prototype])]} #{prototype}"
    return name if bank.num_scales == 1 else f"{name}, scale {int(bank.scale_of[prototype]) + 1}"


def prototype_picture(model: Segmenter, prototype: int) -> Image.Image:
    """The stored picture of a prototype's training patch; blank where there is none."""
    picture = stored_patch(model, source_of(model, prototype))
    return Image.new("RGB", (64, 64), BLANK) if picture is None else picture.convert("RGB")


def group_names(model: Segmenter) -> list[str]:
    """``car, group 2`` of every group, in order."""
    grouping = require_groups(model)
    classes = grouping.class_of_group.tolist()
    return [f"{model.classes.names[c]}, group {g % grouping.groups + 1}" for g, c in enumerate(classes)]


def stretched(values: Tensor, inside: Tensor | None = None) -> Tensor:
    """Values to 0..1, from the least to the most of those inside a mask (all without one); 0 outside."""
    chosen = values if inside is None or not bool(inside.any()) else values[inside]
    low, high = chosen.min(), chosen.max()
    out = ((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return out if inside is None else out * inside
