"""Which cells of a labelled image belong to a class: two published rules, bool (C, h, w) each."""

from __future__ import annotations

import torch
from torch import Tensor

from segproto.prototypes.labels import resize_labels


def nearest_label(labels: Tensor, grid: tuple[int, int], num_classes: int) -> Tensor:
    """A cell belongs to the class of its nearest pixel (scaleproto; PIL's NEAREST).

    Args:
        labels: (H, W) int64, 255 = void.
        grid: (h, w).
        num_classes: C.

    Returns:
        bool (C, h, w).
    """
    small = resize_labels(labels, grid)
    return small == torch.arange(num_classes, device=labels.device)[:, None, None]


def any_pixel(labels: Tensor, grid: tuple[int, int], num_classes: int) -> Tensor:
    """A cell belongs to every class that one of its pixels has (protoseg).

    Pixel row y lies in cell row ``int(y / (H / h))``, columns likewise. Arguments and result as ``nearest_label``; a
    cell may belong to several classes.
    """
    rows = _cell_of_pixel(labels.shape[0], grid[0], labels.device)
    columns = _cell_of_pixel(labels.shape[1], grid[1], labels.device)
    cell = rows[:, None] * grid[1] + columns
    out = torch.zeros(num_classes + 1, grid[0] * grid[1], dtype=torch.bool, device=labels.device)
    out[labels.clamp_max(num_classes), cell] = True  # the extra row takes void pixels
    return out[:num_classes].view(num_classes, *grid)


def _cell_of_pixel(pixels: int, cells: int, device: torch.device) -> Tensor:
    position = torch.arange(pixels, device=device, dtype=torch.float64) / (pixels / cells)
    return position.to(torch.int64).clamp_max(cells - 1)
