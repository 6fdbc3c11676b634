"""Pickled whole modules of the ProtoSeg family (Sacha et al. 2023, Porta et al. 2025) as models of ours.

Classes, scales and groups of the prototypes are plain attributes of the pickled object, not tensors of its state dict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from segproto import foreign
from segproto.data.em import LABELS
from segproto.encoders.base import Encoder
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.errors import WeightsError
from segproto.foreign import Record
from segproto.interop.conversion import KeyMap, Options, Source, finished
from segproto.model.heads import GroupedHead, Head, PrototypeHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.similarity import EPSILON

RATES = [6, 12, 18, 24]
INPUT_SIZES: dict[int, int | tuple[int, int]] = {21: (513, 513), 150: 512}  # VOC stretched, ADE20K's shorter side
UNET_STEM = "inc.double_conv.0.weight"


def convert_pickled(path: Path, options: Options, source: Source, method: str, *, multi_scale: bool) -> Segmenter:
    """Any of the family's checkpoints: stage 1, pruned, grouped or thresholded, on DeepLab or U-Net.

    Args:
        path: the pickled module, or a plain state dict of it (then its prototypes must be in the regular layout).
        options: class names.
        source: for the card.
        method: public name of the method.
        multi_scale: one scale an ASPP branch, or a single one for their sum.

    Raises:
        WeightsError: another kind of file, or one that does not fit together.
    """
    value = foreign.read(path)
    record = value if isinstance(value, Record) else Record("a state dict")
    keys = KeyMap(foreign.module_state(value, path) if isinstance(value, Record) else value, path)
    check_kind(record, path, multi_scale)
    bank = prototype_bank(record, keys, len(RATES) if multi_scale else 1)
    encoder = published_encoder(record, keys, bank.num_scales)
    head, notes = prototype_head(keys, bank)
    if head.num_classes != bank.num_classes:
        raise WeightsError(f"{path}: prototypes of {bank.num_classes} classes, logits of {head.num_classes}")
    em = bank.num_classes == 2 and encoder.config.name == "unet" and options.classes is None
    table = LABELS.table if em else options.class_table(bank.num_classes)
    notes.append(eval_note(encoder))
    size = None if encoder.config.name == "unet" else INPUT_SIZES.get(bank.num_classes)
    if size is not None:
        notes.append(f"images are seen at the published input size, {size}, and scored at their own (input_size)")
    return finished(Segmenter(encoder, head, table, input_size=size), keys, source, notes, method)


def check_kind(record: Record, path: Path, multi_scale: bool) -> None:
    """Refuses the other family member, and variants of the published code that none of its checkpoints uses."""
    if "PPNet" in record.class_name and ("MultiScale" in record.class_name) != multi_scale:
        wanted = "multi-scale" if multi_scale else "single-scale"
        raise WeightsError(f"{path}: a {record.class_name}, which is not {wanted}; see segproto convert --list")
    attributes = record.attributes
    kind, epsilon = attributes.get("prototype_activation_function", "log"), attributes.get("epsilon", EPSILON)
    if kind != "log" or abs(epsilon - EPSILON) > 1e-12:
        raise WeightsError(f"{path}: similarity {kind!r} with epsilon {epsilon}; expected 'log' with {EPSILON}")
    if attributes.get("scale_head") is not None or attributes.get("_modules", {}).get("scale_head") is not None:
        raise WeightsError(f"{path}: it has a scale head, which no published model uses and segproto does not have")


def prototype_bank(record: Record, keys: KeyMap, scales: int) -> PrototypeBank:
    """The prototypes, with class and scale from the object's attributes; ``scales`` where it lacks them."""
    vectors = keys.take("prototype_vectors", (None, None, 1, 1)).flatten(1)
    keys.drop("ones", "a constant of the published distance")
    count = len(vectors)
    identity = as_tensor(record.attributes.get("prototype_class_identity"))
    ranges = record.attributes.get("scale_num_prototypes")
    scale_of = torch.zeros(count, dtype=torch.int64)
    if isinstance(ranges, dict):
        for scale, (start, end) in enumerate(ranges[s] for s in sorted(ranges)):
            scale_of[int(start) : int(end)] = scale
        scales = len(ranges)
    if identity is None:
        classes = regular_layout(keys, count, scales)
        per_scale = count // scales
        index = torch.arange(count)
        scale_of = index // per_scale
        class_of = index % per_scale // (per_scale // classes)
    else:
        if identity.ndim != 2 or len(identity) != count or not bool((identity.sum(1) == 1).all()):
            shape = tuple(identity.shape)
            raise WeightsError(f"{keys.path}: prototype_class_identity {shape} gives no class to {count} prototypes")
        class_of, classes = identity.argmax(1), identity.shape[1]
    return PrototypeBank(vectors, class_of, scale_of, classes, scales)


def regular_layout(keys: KeyMap, count: int, scales: int) -> int:
    """Classes of a bare state dict, whose prototypes must be complete: p = s (P/S) + c M + m."""
    weight = keys.left.get("last_layer.weight", keys.left.get("last_layer_group.weight"))
    classes = len(weight) if isinstance(weight, Tensor) else 0
    if not classes or count % (classes * scales):
        raise WeightsError(
            f"{keys.path}: {count} prototypes of {classes} classes and {scales} scales are no regular layout, and the "
            "file lacks prototype_class_identity; convert the whole pickled module instead of its state dict"
        )
    return classes


def as_tensor(value: Any) -> Tensor | None:
    """A tensor or array, or None."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return value if isinstance(value, Tensor) else None


def published_encoder(record: Record, keys: KeyMap, scales: int) -> Encoder:
    """DeepLabv2 ResNet-101 or the EM U-Net, with its ASPP and the MSC scales of the wrapper around it."""
    features = record.attributes.get("_modules", {}).get("features")
    prefix = "features.base." if keys.names(r"features\.base\..*") else "features."
    msc = features.attributes.get("scales") if isinstance(features, Record) and "base." in prefix else None
    first = keys.left.get(f"{prefix}aspp.c0.weight")
    stem = keys.left.get(prefix + UNET_STEM)
    if not isinstance(first, Tensor) or first.ndim != 4:
        raise WeightsError(
            f"{keys.path}: no {prefix}aspp.c0.weight; expected DeepLabv2 or the EM U-Net; {keys.about()}"
        )
    name: Literal["unet", "deeplabv2_resnet101"] = "unet" if isinstance(stem, Tensor) else "deeplabv2_resnet101"
    config = EncoderConfig(
        name=name,
        width=len(stem) if isinstance(stem, Tensor) else 64,
        rates=dilations(features, len(keys.names(re_branches(prefix)))),
        dim=len(first),
        fusion="concat" if scales > 1 else "sum",
        msc=[float(s) for s in msc or []],
    )
    encoder = build_encoder(config, load_weights=False)
    keys.fill(encoder.backbone, prefix)
    keys.fill(encoder.neck, f"{prefix}aspp.")
    return encoder


def re_branches(prefix: str) -> str:
    """The names of the ASPP's weights."""
    return prefix.replace(".", r"\.") + r"aspp\.c\d+\.weight"


def dilations(features: Any, count: int) -> list[int]:
    """ASPP rates as stored in the pickled convolutions; the published ones where only tensors are left."""
    base = features
    if isinstance(base, Record) and "base" in base.attributes.get("_modules", {}):
        base = base.attributes["_modules"]["base"]
    aspp = base.attributes["_modules"].get("aspp") if isinstance(base, Record) else None
    if not isinstance(aspp, Record):
        return RATES[:count]
    return [int(aspp.attributes["_modules"][f"c{i}"].attributes["dilation"][0]) for i in range(count)]


def prototype_head(keys: KeyMap, bank: PrototypeBank) -> tuple[Head, list[str]]:
    """The readout of prototypes, or groups and their readout."""
    blocks = keys.names(r"group_projection\.\d+\.weight")
    if not blocks:
        single = PrototypeHead(bank)
        keys.set(single.readout, "last_layer.weight", keys.take("last_layer.weight", (None, bank.num_prototypes)))
        return single, []
    keys.drop(r"last_layer\.weight", "readout of prototypes, replaced by the groups'")
    blocks.sort(key=lambda name: int(name.split(".")[1]))
    weights = [keys.take(name, (None, None)) for name in blocks]
    head = GroupedHead(bank, len(weights[0]))
    mask = head.grouping.mask
    if len(weights) != len(mask):
        raise WeightsError(f"{keys.path}: groups of {len(weights)} classes, prototypes of {len(mask)}")
    padded = torch.zeros_like(head.grouping.weights)
    for k, (name, block) in enumerate(zip(blocks, weights, strict=True)):
        keys.set(padded[k, :, : int(mask[k].sum())], name, block)
    keys.set(head.grouping.weights, "group_projection", padded)
    readout = keys.take("last_layer_group.weight", (None, head.grouping.num_groups))
    keys.set(head.readout, "last_layer_group.weight", readout)
    sums = padded.sum(-1)
    cut = bool((sums < 1 - 1e-3).any())
    return head, ["group weights were thresholded without rescaling, as published"] if cut else []


def eval_note(encoder: Encoder) -> str:
    """How the published code evaluates such a model."""
    msc = encoder.config.msc
    if msc:
        return f"input scales {msc} are fused by maximum in evaluation too, as published; the paper names training only"
    return "evaluated at one input scale, as published"
