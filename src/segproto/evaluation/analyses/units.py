"""What the analyses ask of any head with prototypes: distances, which ones are used, names, maps."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from segproto.data.images import open_patch
from segproto.errors import ConfigError
from segproto.model.direction_head import DirectionBank
from segproto.model.evidence import bank_of, source_of, unit_activations
from segproto.model.heads import GroupedHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.cosine_bank import CosineBank

BLANK = (236, 238, 240)


def require_bank(model: Segmenter) -> PrototypeBank | CosineBank | DirectionBank:
    """The model's prototypes.

    Raises:
        ConfigError: a black box.
    """
    bank = bank_of(model.head)
    if bank is None:
        raise ConfigError("a black box has no prototypes to analyse; expected a prototype model")
    return bank


def require_groups(model: Segmenter) -> GroupedHead:
    """The model's grouped head.

    Raises:
        ConfigError: a model without groups.
    """
    if not isinstance(model.head, GroupedHead):
        raise ConfigError(f"a {model.head.kind} head has no groups to analyse; expected a grouped model")
    return model.head


def prototype_distances(model: Segmenter, features: Tensor) -> Tensor:
    """Features (1, F, h, w) to squared distances (P, h, w); between unit vectors where the head compares directions."""
    head, bank = model.head, require_bank(model)
    if isinstance(bank, PrototypeBank):
        return bank.distances(features)[0]
    return 2 - 2 * unit_activations(head, head.cell_features(features))[0]  # cosines


def used_prototypes(model: Segmenter) -> Tensor:
    """bool (P,): whether any group, or for heads without groups any readout weight, uses a prototype."""
    head, bank = model.head, require_bank(model)
    if isinstance(head, GroupedHead):
        return head.grouping.used_prototypes().cpu()
    readout = getattr(head, "readout", None)
    if isinstance(readout, Tensor):
        return (readout.detach() != 0).any(0).cpu()
    return torch.ones(bank.num_prototypes, dtype=torch.bool)


def prototype_name(model: Segmenter, prototype: int) -> str:
    """``car #17, scale 2``, without the scale where there is only one."""
    bank = require_bank(model)
    name = f"{model.classes.names[int(bank.class_of[prototype])]} #{prototype}"
    return name if bank.num_scales == 1 else f"{name}, scale {int(bank.scale_of[prototype]) + 1}"


def prototype_picture(model: Segmenter, prototype: int) -> Image.Image:
    """The stored picture of a prototype's training patch; blank where there is none."""
    source = source_of(model, prototype)
    if source is None or source.patch is None or source.patch not in model.patches:
        return Image.new("RGB", (64, 64), BLANK)
    return open_patch(model.patches[source.patch], source.patch).convert("RGB")


def group_names(model: Segmenter) -> list[str]:
    """``car, group 2`` of every group, in order."""
    head = require_groups(model)
    classes = head.grouping.class_of_group.tolist()
    return [f"{model.classes.names[c]}, group {g % head.groups + 1}" for g, c in enumerate(classes)]


def stretched(values: Tensor, inside: Tensor | None = None) -> Tensor:
    """Values to 0..1, from the least to the most of those inside a mask (all without one); 0 outside."""
    chosen = values if inside is None or not bool(inside.any()) else values[inside]
    low, high = chosen.min(), chosen.max()
    out = ((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return out if inside is None else out * inside
