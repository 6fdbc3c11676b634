"""The prototypes nearest to chosen or random pixels of an image (Porta et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import ImageDraw
from torch import Tensor

from segproto.data.picture import ImageLike, look_at
from segproto.data.pixels import to_colours
from segproto.errors import ConfigError
from segproto.evaluation.analyses.sheet import Row, Tile, draw_sheet, to_picture, write_result
from segproto.evaluation.analyses.units import (
    prototype_distances,
    prototype_name,
    prototype_picture,
    require_bank,
    used_prototypes,
)
from segproto.model.patches import Box, cell_box, patch_picture
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating


@dataclass(frozen=True)
class NearestPrototypes:
    """The k nearest used prototypes of N pixels.

    Attributes:
        model: whose prototypes.
        image: uint8 (3, H, W).
        name: of the image.
        points: (N, 2) int64 pixel row and column.
        boxes: (y0, x0, y1, x1) of the grid cell under each pixel, which is what is compared.
        prototype: (N, k) int64, nearest first.
        distance: (N, k) squared distance.
    """

    model: Segmenter
    image: Tensor
    name: str
    points: Tensor
    boxes: list[Box]
    prototype: Tensor
    distance: Tensor

    def to_json(self) -> dict[str, Any]:
        """One row per pixel."""
        rows = []
        for n, (y, x) in enumerate(self.points.tolist()):
            near = zip(self.prototype[n].tolist(), self.distance[n].tolist(), strict=True)
            nearest = [{"prototype": p, "name": prototype_name(self.model, p), "distance": d} for p, d in near]
            rows.append({"pixel": [y, x], "cell_box": list(self.boxes[n]), "nearest": nearest})
        return {"image": self.name, "pixels": rows}

    def save(self, out: Path) -> None:
        """Writes ``analysis.json``, ``arrays.safetensors`` and ``nearest_prototypes.png``."""
        arrays = {"points": self.points, "prototype": self.prototype, "distance": self.distance}
        write_result(out, arrays, self.to_json())
        photo = to_picture(self.image)
        factor = 512 / max(photo.size)
        enlarged = photo.resize((round(photo.width * factor), round(photo.height * factor)))
        draw = ImageDraw.Draw(enlarged)
        rows = []
        for n, (y, x) in enumerate(self.points.tolist()):
            cy, cx = (y + 0.5) * factor, (x + 0.5) * factor
            draw.ellipse([cx - 8, cy - 8, cx + 8, cy + 8], None, (0, 0, 0), 4)
            draw.ellipse([cx - 7, cy - 7, cx + 7, cy + 7], None, (255, 255, 255), 2)
            corner = (cx + 11, cy - 9)
            draw.text(corner, str(n + 1), (255, 255, 255), font_size=16, stroke_width=2, stroke_fill=(0, 0, 0))
            tiles = [Tile(patch_picture(self.image, self.boxes[n]), f"pixel {n + 1}\nrow {y}, column {x}")]
            for p, d in zip(self.prototype[n].tolist(), self.distance[n].tolist(), strict=True):
                caption = f"{prototype_name(self.model, p)}\ndistance {d:.3g}"
                tiles.append(Tile(prototype_picture(self.model, p), caption))
            rows.append(Row(f"pixel {n + 1}", tiles))
        draw_sheet([Row(self.name, [Tile(enlarged)], 512), *rows], out / "nearest_prototypes.png", side=160)


def nearest_prototypes(
    model: Segmenter,
    image: ImageLike,
    points: Sequence[tuple[int, int]] | None = None,
    *,
    count: int = 3,
    seed: int = 0,
    k: int = 3,
) -> NearestPrototypes:
    """Finds the prototypes nearest to the cells under some pixels; unused prototypes are left out.

    Args:
        model: with prototypes.
        image: see :func:`segproto.data.picture.look_at`.
        points: (row, column) of pixels; None = ``count`` random ones.
        count: how many random pixels.
        seed: of that choice.
        k: prototypes per pixel.

    Raises:
        ConfigError: a pixel outside the image, or no prototype in use.
    """
    require_bank(model)
    picture = look_at(image, rule=model.encoder.pixels)
    pixels = picture.read(0, 0, picture.height, picture.width)
    if points is None:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.rand(count, 2, generator=generator) * torch.tensor([picture.height, picture.width])
        where = drawn.long()
    else:
        where = torch.tensor(list(points), dtype=torch.int64).view(-1, 2)
    outside = (where < 0) | (where >= torch.tensor([picture.height, picture.width]))
    if bool(outside.any()):
        y, x = where[outside.any(1)][0].tolist()
        rows, columns = picture.height, picture.width
        raise ConfigError(f"pixel {y},{x}: outside {picture.name}, which has {rows} rows and {columns} columns")
    device = next(model.parameters()).device
    with evaluating(model):
        features = model.features(model.encoder.normalisation(pixels.to(device))[None])
        distances = prototype_distances(model, features).cpu()
    used = used_prototypes(model)
    if not bool(used.any()):
        raise ConfigError("no prototype of this model is in use")
    grid = [distances.shape[1], distances.shape[2]]
    padded = model.encoder.padded_size(picture.height, picture.width)
    cells = torch.stack([where[:, d] * grid[d] // padded[d] for d in (0, 1)], 1)
    at_cells = distances[:, cells[:, 0], cells[:, 1]].T.masked_fill(~used, torch.inf)
    nearest = at_cells.topk(min(k, int(used.sum())), dim=1, largest=False)
    size = (picture.height, picture.width)
    boxes = [cell_box(model, size, cell, grid) for cell in cells.tolist()]
    seen = to_colours(pixels, model.encoder.pixels.show)
    return NearestPrototypes(model, seen, picture.name, where, boxes, nearest.indices, nearest.values)
