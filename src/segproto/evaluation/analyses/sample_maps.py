"""Sample activation maps of an image's classes: one per group, one per scale, and which group or scale wins where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segproto.data.overlay import colour_labels
from segproto.data.palette import default_colours
from segproto.evaluation.analyses.sheet import Row, Tile, draw_sheet, write_result
from segproto.evaluation.analyses.units import require_bank, stretched
from segproto.model.explanation import Explanation
from segproto.model.overlays import heat_overlay
from segproto.prototypes.labels import IGNORE_INDEX


@dataclass(frozen=True)
class ClassMaps:
    """The maps of one class in one image, at the image's size.

    Attributes:
        class_id: the class.
        inside: bool (h, w), where the class is.
        groups: (G, h, w) group activations; (0, h, w) without groups.
        scales: (S, h, w) the largest activation of the class's prototypes of each scale; 0 where it has none.
        winning_group: int64 (h, w), the group (1..G) with the largest activation times own readout weight; 0 outside.
        winning_scale: int64 (h, w), the scale (1..S) with the largest activation; 0 outside.
    """

    class_id: int
    inside: Tensor
    groups: Tensor
    scales: Tensor
    winning_group: Tensor
    winning_scale: Tensor


def sample_maps(explanation: Explanation, mask: Tensor | None = None) -> list[ClassMaps]:
    """The maps of every class of an image, by area.

    Args:
        explanation: of the image.
        mask: uint8 (h, w) truth with 255 = void; None = the prediction.
    """
    model = explanation.segmenter
    bank, head = require_bank(model), model.head
    labels = explanation.prediction if mask is None else mask
    pixels = torch.bincount(labels.flatten().long(), minlength=256)
    pixels[IGNORE_INDEX] = 0
    pixels = pixels[: head.num_classes]
    order = [c for c in pixels.argsort(descending=True).tolist() if pixels[c] > 0]
    out = []
    for c in order:
        inside = labels == c
        scales = torch.zeros(bank.num_scales, *explanation.size)
        for s in range(bank.num_scales):
            own = ((bank.class_of == c) & (bank.scale_of == s)).nonzero()[:, 0].tolist()
            if own:
                scales[s] = torch.stack([explanation.activation_map(p) for p in own]).amax(0)
        groups, votes = group_maps(explanation, c)
        zero = torch.zeros(explanation.size, dtype=torch.int64)
        group = (votes.argmax(0) + 1) * inside if len(votes) else zero
        out.append(ClassMaps(c, inside, groups, scales, group, (scales.argmax(0) + 1) * inside))
    return out


def group_maps(explanation: Explanation, class_id: int) -> tuple[Tensor, Tensor]:
    """The maps (G, h, w) of a class's groups, and the same times the readout weights for the class."""
    head, nothing = explanation.segmenter.head, torch.zeros(0, *explanation.size)
    weights = head.unit_weights()
    if head.grouping is None or weights is None:
        return nothing, nothing
    own = (head.grouping.class_of_group == class_id).nonzero()[:, 0].tolist()
    if not own:
        return nothing, nothing
    maps = torch.stack([explanation.group_map(g) for g in own])
    return maps, maps * weights.detach().cpu()[class_id, own][:, None, None]


def save_sample_maps(explanation: Explanation, maps: Sequence[ClassMaps], out: Path, top: int = 6) -> dict[str, Any]:
    """Writes ``analysis.json``, ``arrays.safetensors`` and ``samples.png``, one row per class, for the ``top`` largest.

    Maps are stretched from the least to the most inside the class and shown there only.
    """
    names, image = explanation.segmenter.classes.names, explanation.image.cpu()
    arrays: dict[str, Tensor] = {}
    rows: list[Row] = []
    listed: list[dict[str, Any]] = []
    for class_maps in maps:
        stem = f"class{class_maps.class_id}"
        arrays |= {f"{stem}.groups": class_maps.groups, f"{stem}.scales": class_maps.scales}
        arrays |= {f"{stem}.winning_group": class_maps.winning_group, f"{stem}.winning_scale": class_maps.winning_scale}
        area = float(class_maps.inside.float().mean())
        shares = {
            kind: [float((labels == i + 1).sum() / class_maps.inside.sum()) for i in range(count)]
            for kind, labels, count in (
                ("groups", class_maps.winning_group, len(class_maps.groups)),
                ("scales", class_maps.winning_scale, len(class_maps.scales)),
            )
        }
        listed.append({"class": names[class_maps.class_id], "area": area, "winning_share": shares})
        if len(rows) < top:
            rows.append(
                Row(f"{names[class_maps.class_id]} ({100 * area:.0f} % of the image)", class_tiles(image, class_maps))
            )
    document = {"image": explanation.name, "classes": listed}
    write_result(out, arrays, document)
    draw_sheet(rows, out / "samples.png")
    return document


def class_tiles(image: Tensor, class_maps: ClassMaps) -> list[Tile]:
    """The pictures of one class."""
    where = colour_labels(image, class_maps.inside.long(), {1: (0, 114, 178)})
    tiles = [Tile(where, "where the class is")]
    for kind, maps, winner in (
        ("group", class_maps.groups, class_maps.winning_group),
        ("scale", class_maps.scales, class_maps.winning_scale),
    ):
        for i, values in enumerate(maps):
            heat = heat_overlay(image, stretched(values, class_maps.inside), limits=(0, 1))
            tiles.append(Tile(heat, f"{kind} {i + 1}"))
        if len(maps) > 1:
            colours = dict(enumerate(default_colours(len(maps)), 1))
            tiles.append(Tile(colour_labels(image, winner, colours), f"strongest {kind}"))
    return tiles
