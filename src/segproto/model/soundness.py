"""Whether what was loaded can be a model at all: each of these would give masks, and wrong ones, without a word."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from segproto.errors import WeightsError
from segproto.model.provenance import PrototypeSource
from segproto.model.segmenter import Segmenter

BUILT = (".class_of", ".scale_of")  # told by model.json, too, where the tables of the head are built from it


def require_sound(model: Segmenter, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Refuses a model that contradicts itself.

    Args:
        model: built from ``model.json``, before its tensors are put in.
        tensors: of ``model.safetensors``, of the names and shapes that the model has.
        folder: where it came from.

    Raises:
        WeightsError: naming the file and what is wrong: weights that are no numbers, a normalisation that divides by
            zero, outputs without a class name, prototypes of other classes or places than there are.
    """
    require_numbers(tensors, folder)
    (mean, std), bands = model.encoder.normalisation, model.encoder.config.bands
    if len(mean) != bands or len(std) != bands or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise WeightsError(
            f"{folder}/model.json: preprocessing has mean {list(mean)} and std {list(std)}; expected "
            f"{'three' if bands == 3 else bands} numbers each, the second above 0"
        )
    if model.encoder.pixels.count != bands:
        raise WeightsError(f"{folder}/model.json: pixels have {model.encoder.pixels.count} bands, the encoder {bands}")
    names, colours, outputs = model.classes.names, model.classes.colours, model.head.num_classes
    if len(names) != outputs or len(colours) != outputs:
        raise WeightsError(
            f"{folder}/model.json: names {len(names)} classes and {len(colours)} colours, but the model has {outputs} "
            "outputs"
        )
    require_same_tables(model, tensors, folder)
    require_places(model, folder)


def require_numbers(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Refuses weights that are infinite or no number."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            count = int((~torch.isfinite(value)).sum())
            raise WeightsError(
                f"{folder}/model.safetensors: {name} has {count} of {value.numel()} values that are no finite number; "
                "the training diverged, or the file is damaged"
            )


def require_same_tables(model: Segmenter, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Refuses prototypes that the two files give to different classes or scales."""
    for name, value in model.state_dict().items():
        if name.endswith(BUILT) and not torch.equal(value.cpu(), tensors[name]):
            p = int((value.cpu() != tensors[name]).nonzero()[0])
            in_json, in_tensors = int(value[p]), int(tensors[name][p])
            what = "class" if name.endswith("class_of") else "scale"
            raise WeightsError(
                f"{folder}: prototype {p} is of {what} {in_json} in model.json "
                f"and of {what} {in_tensors} in model.safetensors"
            )


def require_places(model: Segmenter, folder: Path) -> None:
    """Refuses sources that are not one for each prototype, or no cell of their image."""
    bank, provenance = model.head.bank, model.provenance
    if provenance is None:
        return
    if bank is None or len(provenance.sources) != bank.num_prototypes:
        count = 0 if bank is None else bank.num_prototypes
        raise WeightsError(
            f"{folder}/prototypes.json: sources of {len(provenance.sources)} prototypes, the model has {count}"
        )
    for index, source in enumerate(provenance.sources):
        for patch in () if source is None else source.all_patches:
            if not has_place(patch):
                raise WeightsError(
                    f"{folder}/prototypes.json: prototype {index} comes from cell {list(patch.cell)} of a grid of "
                    f"{list(patch.grid)}, box {list(patch.box)}, which is no place in an image"
                )


def has_place(source: PrototypeSource) -> bool:
    """Whether the cell lies in the grid and the box is one."""
    y0, x0, y1, x1 = source.box
    inside = all(0 <= cell < size for cell, size in zip(source.cell, source.grid, strict=True))
    return inside and 0 <= y0 < y1 and 0 <= x0 < x1
