"""The training or validation patches nearest to each prototype: does it stand for one thing? (Porta et al. 2025)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.evaluation.analyses.sheet import Row, Tile, draw_sheet, write_result
from segproto.evaluation.analyses.units import (
    prototype_distances,
    prototype_name,
    prototype_picture,
    require_bank,
    used_prototypes,
)
from segproto.model.evidence import source_of
from segproto.model.features import image_features
from segproto.model.patches import Box, cell_box, patch_picture
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating
from segproto.prototypes.labels import IGNORE_INDEX
from segproto.prototypes.nearest import RunningTopK

OWN, OTHER = (0, 114, 178), (213, 94, 0)  # frames: a patch of the prototype's class, and of another


@dataclass(frozen=True)
class NearestPatches:
    """Per prototype its k nearest patches, at most one per image, nearest first.

    Attributes:
        model: whose prototypes.
        dataset: whose images.
        distance: (P, k) squared distance; inf where there are fewer images than k.
        image: (P, k) int64 index in the data set, -1 where there is none.
        cell: (P, k, 2) int64 row and column on the grid.
        box: (P, k, 4) int64 (y0, x0, y1, x1) in pixels.
        label: (P, k) int64 the most frequent class in the box; 255 where all is void.
    """

    model: Segmenter
    dataset: SegmentationDataset
    distance: Tensor
    image: Tensor
    cell: Tensor
    box: Tensor
    label: Tensor

    def to_json(self) -> dict[str, Any]:
        """One row per prototype."""
        bank, used = require_bank(self.model), used_prototypes(self.model)
        names = self.model.classes.names
        return {
            "split": self.dataset.split,
            "prototypes": [
                {
                    "prototype": p,
                    "class": names[int(bank.class_of[p])],
                    "scale": int(bank.scale_of[p]),
                    "used": bool(used[p]),
                    "nearest": [
                        {
                            "image": self.dataset.names[i],
                            "box": self.box[p, n].tolist(),
                            "distance": float(self.distance[p, n]),
                            "class": None if int(self.label[p, n]) == IGNORE_INDEX else names[int(self.label[p, n])],
                        }
                        for n, i in enumerate(self.image[p].tolist())
                        if i >= 0
                    ],
                }
                for p in range(bank.num_prototypes)
            ],
        }

    def save(self, out: Path) -> None:
        """Writes ``analysis.json``, ``arrays.safetensors`` and one sheet per class: prototypes and what is near."""
        arrays = {name: getattr(self, name) for name in ("distance", "image", "cell", "box", "label")}
        write_result(out, arrays, self.to_json())
        bank, used = require_bank(self.model), used_prototypes(self.model)
        pictures: dict[tuple[int, int], Tile] = {}
        for index in sorted(set(self.image.flatten().tolist()) - {-1}):
            image = self.dataset[index].colours
            for p, n in (self.image == index).nonzero().tolist():
                pictures[p, n] = self._tile(image, p, n)
        for c, name in enumerate(self.model.classes.names):
            rows = []
            for p in (bank.class_of == c).nonzero()[:, 0].tolist():
                source = source_of(self.model, p)
                own = Tile(prototype_picture(self.model, p), f"the prototype\n{source.image if source else 'unknown'}")
                near = [pictures[p, n] for n in range(self.image.shape[1]) if (p, n) in pictures]
                title = prototype_name(self.model, p) + ("" if bool(used[p]) else " (unused)")
                rows.append(Row(title, [own, *near]))
            if rows:
                draw_sheet(rows, out / f"{c:03d}-{file_name(name)}.png")

    def _tile(self, image: Tensor, p: int, n: int) -> Tile:
        label, own = int(self.label[p, n]), int(require_bank(self.model).class_of[p])
        class_name = "void" if label == IGNORE_INDEX else self.model.classes.names[label]
        caption = f"{class_name}, {float(self.distance[p, n]):.2g} away\n{self.dataset.names[int(self.image[p, n])]}"
        y0, x0, y1, x1 = self.box[p, n].tolist()
        return Tile(patch_picture(image, (y0, x0, y1, x1)), caption, OWN if label == own else OTHER)


def file_name(name: str) -> str:
    """A class name that every file system takes."""
    return "".join(c if c.isalnum() else "-" for c in name)[:40]


def nearest_patches(
    model: Segmenter, dataset: SegmentationDataset, k: int = 3, progress: Callable[[int, int], None] | None = None
) -> NearestPatches:
    """Finds each prototype's nearest cell of every image, of whatever class, and keeps the k nearest.

    Args:
        model: with prototypes.
        dataset: images at native size.
        k: patches kept per prototype.
        progress: called with (images done, images).
    """
    bank = require_bank(model)
    top = RunningTopK(bank.class_of, k)
    grids: dict[int, list[int]] = {}
    with evaluating(model):
        for index in range(len(dataset)):
            features = image_features(model, dataset, index)
            distances = prototype_distances(model, features)
            grids[index] = [distances.shape[1], distances.shape[2]]
            anywhere = torch.zeros(distances.shape[1:], dtype=torch.int64, device=distances.device)
            top.update(distances, anywhere, anywhere, index)
            if progress is not None:
                progress(index + 1, len(dataset))
    image, cell = top.image.cpu(), top.cell.cpu()
    box, label = torch.zeros(*image.shape, 4, dtype=torch.int64), torch.full_like(image, IGNORE_INDEX)
    for index in sorted(set(image.flatten().tolist()) - {-1}):
        mask = dataset[index].mask
        for p, n in (image == index).nonzero().tolist():
            patch = cell_box(model, (mask.shape[-2], mask.shape[-1]), cell[p, n].tolist(), grids[index])
            box[p, n], label[p, n] = torch.tensor(patch), majority(mask, patch)
    return NearestPatches(model, dataset, top.distance.cpu(), image, cell, box, label)


def majority(mask: Tensor, box: Box) -> int:
    """The most frequent class in a box, the smallest on ties; 255 where all is void."""
    labels = mask[box[0] : box[2], box[1] : box[3]].flatten().long()
    labels = labels[labels != IGNORE_INDEX]
    return int(torch.bincount(labels).argmax()) if len(labels) else IGNORE_INDEX
