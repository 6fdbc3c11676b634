"""A page that shows the found categories: how much each has, and where it is most itself."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.files import write
from segproto.files.pages import page_environment
from segproto.model.patches import cell_box, patch_picture
from segproto.model.segmenter import Segmenter

SHOWN = 10  # images per category
PIXELS = 120  # side of a picture


class Best(NamedTuple):
    """The most typical cell of each of K categories in each of N images.

    Attributes:
        cosine: (K, N) with the category's direction; -inf where the image has none of it.
        cell: int64 (K, N, 4): row, column, rows, columns.
    """

    cosine: Tensor
    cell: Tensor


def write_gallery(page: Path, model: Segmenter, dataset: SegmentationDataset, best: Best, pixels: Tensor) -> None:
    """Writes the page: one file, no network.

    Args:
        page: the HTML file.
        model: whose categories they are.
        dataset: the training images.
        best: their most typical cells.
        pixels: (K,) cells of each category.
    """
    environment = page_environment("segproto.methods.primaps")
    shares = pixels / pixels.sum().clamp_min(1)
    rows = []
    for k in shares.argsort(descending=True).tolist():
        order = best.cosine[k].argsort(descending=True)[:SHOWN]
        chosen = [int(i) for i in order if bool(torch.isfinite(best.cosine[k, i]))]
        rows.append(
            {
                "name": model.classes.names[k],
                "colour": "#{:02x}{:02x}{:02x}".format(*model.classes.colours[k]),
                "share": f"{100 * float(shares[k]):.1f}",
                "images": int(torch.isfinite(best.cosine[k]).sum()),
                "pictures": [picture(model, dataset, i, best.cell[k, i].tolist()) for i in chosen],
            }
        )
    html = environment.get_template("categories.html.j2").render(rows=rows, images=len(dataset))
    write(page, html.encode(errors="backslashreplace"), None)


def picture(model: Segmenter, dataset: SegmentationDataset, index: int, cell: list[int]) -> dict[str, str]:
    """A patch with its surroundings as a data URI, and its image's name."""
    image = dataset[index].colours
    box = cell_box(model, (image.shape[-2], image.shape[-1]), cell[:2], cell[2:])
    buffer = io.BytesIO()
    patch_picture(image, box, PIXELS).convert("RGB").save(buffer, "JPEG", quality=85)
    return {
        "src": f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}",
        "name": dataset.names[index],
    }
