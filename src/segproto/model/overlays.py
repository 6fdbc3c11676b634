"""Explanations on disk: pictures to look at, arrays to compute with, JSON to read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from segproto.data.overlay import colour_labels
from segproto.data.palette import default_colours
from segproto.data.picture import MaskWriter, to_pil
from segproto.errors import WeightsError
from segproto.files import write, write_json, write_picture, write_tensors
from segproto.prototypes.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from segproto.model.explanation import Explanation

# What is always there, with its mark: what a command sees to before it begins.
FILES = {
    "image.png": "picture",
    "prediction.png": "mask",
    "arrays.safetensors": "arrays",
    "explanation.json": "explanation",
}
# Anchors of the "inferno" colour map (matplotlib, CC0): dark = little, bright = much, also in gray.
_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)


def heat_colours(values: Tensor) -> Tensor:
    """Values (h, w) of 0..1, clipped, in colours from dark to bright: float64 (3, h, w) of 0..255."""
    level, stops = values.clamp(0, 1).numpy(), np.linspace(0, 1, len(_HEAT))
    return torch.from_numpy(np.stack([np.interp(level, stops, _HEAT[:, i]) for i in range(3)]))


def heat_overlay(
    image: Tensor, values: Tensor, strength: float = 0.65, limits: tuple[float, float] | None = None
) -> Tensor:
    """Values over the image in gray, from ``limits[0]`` (dark) to ``limits[1]`` (bright): uint8 (3, h, w).

    Without limits they are stretched from their least to their most.
    """
    low, high = limits or (float(values.min()), float(values.max()))
    heat = heat_colours((values - low) / max(high - low, 1e-12))
    gray = image.float().mean(0, keepdim=True)
    return ((1 - strength) * gray + strength * heat).round().to(torch.uint8)


def rank_colours(labels: Tensor) -> dict[int, tuple[int, int, int]]:
    """Colours for the labels of a map: the most frequent ones get those that are easiest to tell apart."""
    ids, counts = torch.unique(labels, return_counts=True)
    order = ids[counts.argsort(descending=True, stable=True)].tolist()
    order = [label for label in order if label >= 0]  # -1: no data
    return dict(zip(order, default_colours(len(order)), strict=True))


def save(explanation: Explanation, out: Path | str, top: int = 8) -> None:
    """Writes an explanation into a folder.

    ``image.png``, ``prediction.png`` (class indices), ``prediction_overlay.png``, ``winning_prototype.png`` and
    ``winning_group.png`` (the largest contribution to each pixel's class, coloured; colours in the JSON),
    ``activation_<p>.png`` for the ``top`` most important prototypes, ``patches/``, ``arrays.safetensors`` and
    ``explanation.json``.

    Args:
        explanation: what to write.
        out: the folder; made if missing.
        top: prototypes with an activation map, and listed per class.
    """
    out = Path(out)
    image, classes = explanation.image, explanation.segmenter.classes
    prediction, winner, group = explanation.prediction, explanation.winning_prototype(), explanation.winning_group()
    _write(out / "image.png", image)
    wide = classes.num_classes > IGNORE_INDEX
    with MaskWriter(out / "prediction.png", *explanation.size, wide=wide) as writer:
        writer.write(prediction)
    _write(out / "prediction_overlay.png", colour_labels(image, prediction, dict(enumerate(classes.colours))))
    colours = {"winning_prototype": rank_colours(winner)}
    arrays = {"prediction": prediction, "runner_up": explanation.runner_up, "winning_prototype": winner}
    arrays |= {"margin": explanation.margin, "confidence": explanation.confidence}
    if group is not None:
        colours["winning_group"], arrays["winning_group"] = rank_colours(group), group
    for name, table in colours.items():
        _write(out / f"{name}.png", colour_labels(image, arrays[name], table))
    summary = explanation.summary(top)
    for prototype in _most_important(summary, top):
        heat = heat_overlay(image, explanation.activation_map(prototype))
        _write(out / f"activation_{prototype}.png", heat)
    write_tensors(out / "arrays.safetensors", arrays, "arrays")
    _write_patches(explanation, summary, out / "patches")
    document = {
        "image": explanation.name,
        **(
            {"pictures": explanation.segmenter.encoder.pixels.words}
            if explanation.segmenter.encoder.pixels.words
            else {}
        ),
        "region": explanation.region,
        "unit": explanation.unit,
        **({"no_data": explanation.no_data} if explanation.no_data else {}),
        "head": explanation.segmenter.head.kind,
        "classes": classes.to_json(),
        "completeness_error": explanation.completeness_error(),
        "activation_maps": _most_important(summary, top),
        "colours": colours,
        "summary": summary,
    }
    if shown := explanation.segmenter.encoder.pixels.words:
        document["pictures"] = shown
    write_json(out / "explanation.json", document, "explanation")


def _most_important(summary: list[dict[str, Any]], top: int) -> list[int]:
    """Prototypes by their contribution to the predicted classes, weighted by area, the largest first."""
    weight: dict[int, float] = {}
    for row in summary:
        for item in row["prototypes"]:
            importance = row["area"] * abs(item["contribution"])
            weight[item["prototype"]] = weight.get(item["prototype"], 0.0) + importance
    return sorted(weight, key=lambda p: -weight[p])[:top]


def _write_patches(explanation: Explanation, summary: list[dict[str, Any]], folder: Path) -> None:
    """Pictures of the listed prototypes' training patches, under the names the JSON gives."""
    listed = [item["source"] for row in summary for item in row["prototypes"] if item["source"]]
    sources = [patch for source in listed for patch in (source, *source["also"])]
    for name in {source["patch"] for source in sources if source["patch"]}:
        if name in explanation.segmenter.patches:
            picture = explanation.segmenter.patches[name]
            if not picture.startswith((b"\x89PNG", b"\xff\xd8\xff")):
                raise WeightsError(f"{name}: is no PNG or JPEG, as the pictures in a model are; the model is damaged")
            write(folder / Path(name).name, picture, "picture")


def _write(path: Path, image: Tensor) -> None:
    """A PNG, packed fast: Pillow's own level takes 4.5 times as long for a seventh less."""
    write_picture(path, lambda file: to_pil(image).save(file, "PNG", compress_level=2), "picture")
