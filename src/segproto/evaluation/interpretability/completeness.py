"""Completeness of every logit of every image: at all cells for all classes, and at random pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segproto.evaluation.interpretability.views import View, generator
from segproto.metrics.completeness import Completeness, completeness_error
from segproto.model.explain import Explanation
from segproto.model.field import Field

CHUNK = 2**22  # numbers (cells times prototypes) held at once
STREAM = 2


class CompletenessSuite:
    """Two accumulators: logits on the grid, and upsampled logits of predicted classes at random pixels.

    Args:
        pixels: how many per image.
        seed: of their choice.
    """

    def __init__(self, pixels: int, seed: int) -> None:
        self.pixels, self.seed = pixels, seed
        self.metrics = {"grid": Completeness(), "pixels": Completeness()}

    def update(self, view: View) -> None:
        """Takes one image in."""
        self.metrics["grid"].update(grid_errors(view), view.index)
        self.metrics["pixels"].update(self._pixel_errors(view), view.index)

    def _pixel_errors(self, view: View) -> Tensor:
        height, width = view.size
        field = Field.over(view.logits, view.model.encoder, view.size, view.size)
        whole = (0, 0, height, width)
        why = Explanation(view.model, view.sample.name, view.sample.image, whole, (0, 0), view.cell_features, field)
        place = torch.randint(height * width, (self.pixels,), generator=generator(self.seed, STREAM, view.index))
        ys, xs = place // width, place % width
        logits = why.logits(ys, xs)
        best, classes = logits.max(1)
        shares = why.evidence(ys, xs, classes)
        return completeness_error(shares.prototypes, shares.offset, best)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything seen so far."""
        return {f"{name}/{key}": v for name, metric in self.metrics.items() for key, v in metric.state_dict().items()}

    def merge(self, state: dict[str, Tensor]) -> None:
        """Takes in the state of another process."""
        for name, metric in self.metrics.items():
            metric.merge({k.removeprefix(f"{name}/"): v for k, v in state.items() if k.startswith(f"{name}/")})

    def compute(self) -> dict[str, Any]:
        """The grid's figures, and those at pixels under ``pixels``."""
        return {**self.metrics["grid"].compute(), "pixels": self.metrics["pixels"].compute()}


def grid_errors(view: View) -> Tensor:
    """Errors (C, h*w) of all logits on the grid."""
    head, logits = view.model.head, view.logits.flatten(1)
    cells = view.cell_features[0].flatten(1).T
    step = max(1, CHUNK // max(view.activations.shape[0], 1))
    errors = []
    for part in torch.split(torch.arange(len(cells), device=cells.device), step):
        for c in range(head.num_classes):
            shares = head.contributions(cells[part], torch.full_like(part, c))
            errors.append(completeness_error(shares.prototypes, shares.offset, logits[c, part]))
    return torch.cat(errors)
