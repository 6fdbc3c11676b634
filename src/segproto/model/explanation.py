"""Why a model segments an image as it does: every pixel's logit, split exactly over prototypes and groups.

Logits are upsampled linearly, so a pixel's contributions are the bilinear mix of those of its four cells, and add up to
its upsampled logit as exactly as they do on the grid: ``|sum + offset - logit| <= 1e-4 max(|logit|, sum |share|)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from segproto.data.base import label_dtype
from segproto.data.overlay import Shown, beside, colour_labels
from segproto.errors import ConfigError
from segproto.model.evidence import Evidence, PixelEvidence, class_number, list_evidence, mix
from segproto.model.field import Field
from segproto.model.head import Contributions
from segproto.model.segmenter import Segmenter
from segproto.prototypes.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Region = tuple[int, int, int, int]
CHUNK = 2**22  # numbers (pixels times prototypes) held at once


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """The evidence for every pixel of a region (by default the whole image).

    Pixels are named by their row and column in the **image**; maps cover the **region**, (h, w).

    Attributes:
        segmenter: the model that explains itself.
        name: the image's file name, or ``image``.
        image: uint8 (3, h, w), the region as a picture.
        region: (y0, x0, y1, x1) in the image.
        origin: (y, x) in the image of the window that the model saw.
        features: (1, F, gh, gw) of that window, as the head's ``contributions`` take them.
        field: logits on the grid, over that window.
        inside: bool (h, w), where the region holds an image at all; None = everywhere. Elsewhere (nodata, a file's own
            mask) the prediction is 255, and nothing is told as if it were evidence.
    """

    segmenter: Segmenter
    name: str
    image: Tensor
    region: Region
    origin: tuple[int, int]
    features: Tensor
    field: Field
    inside: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the region."""
        return self.region[2] - self.region[0], self.region[3] - self.region[1]

    @property
    def unit(self) -> str:
        """What contributes: ``prototype``, or ``channel`` where there are none."""
        return "channel" if self.segmenter.head.bank is None else "prototype"

    @cached_property
    def _top_two(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Prediction, runner-up, margin and confidence, on the CPU."""
        parts, dtype = [], label_dtype(self.segmenter.head.num_classes)
        for logits in self._region_rows(self.field):
            first, best = logits.max(0)
            others = logits.scatter(0, best[None], -torch.inf)
            second, next_best = others.max(0)
            confidence = torch.exp(first - logits.logsumexp(0))
            parts.append((best.to(dtype), next_best.to(dtype), first - second, confidence))
        best, next_best, margin, confidence = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
        return best, next_best, margin, confidence

    @property
    def prediction(self) -> Tensor:
        """(h, w): the class of the largest logit, in the integers of :func:`segproto.data.base.label_dtype`.

        255 where there is no image.
        """
        return self.strongest if self.inside is None else torch.where(self.inside, self.strongest, IGNORE_INDEX)

    @property
    def strongest(self) -> Tensor:
        """(h, w): the same, also where there is no image."""
        return self._top_two[0]

    @property
    def runner_up(self) -> Tensor:
        """(h, w): the class of the second largest logit, in the same integers."""
        return self._top_two[1]

    @property
    def margin(self) -> Tensor:
        """float (h, w): by how much the largest logit exceeds the second."""
        return self._top_two[2]

    @property
    def confidence(self) -> Tensor:
        """float (h, w): the predicted class's softmax probability."""
        return self._top_two[3]

    def logits(self, ys: Tensor, xs: Tensor) -> Tensor:
        """Upsampled logits (N, C) of single pixels."""
        index, cell_weights = self._cells(ys, xs)
        flat = self.field.grid.flatten(1)
        return (flat[:, index] * cell_weights).sum(-1).T

    def evidence(self, ys: Tensor, xs: Tensor, classes: Tensor) -> Contributions:
        """Contributions to the logit of one class each at N pixels; ``prototypes.sum(1) + offset`` equals it.

        Args:
            ys: (N,) image rows, int64.
            xs: (N,) image columns, int64.
            classes: (N,) classes.
        """
        index, cell_weights = self._cells(ys, xs)
        num_classes = self.segmenter.head.num_classes
        pairs, inverse = torch.unique(index * num_classes + classes.to(index)[:, None], return_inverse=True)
        return mix(self._cell_shares(pairs // num_classes, pairs % num_classes), inverse, cell_weights)

    def contributions(self, ys: Tensor, xs: Tensor, classes: Tensor) -> Tensor:
        """The prototypes' part of :meth:`evidence`: (N, P)."""
        return self.evidence(ys, xs, classes).prototypes

    def pixel(self, y: int, x: int, class_id: int | str | None = None, top: int = 10) -> PixelEvidence:
        """Why the pixel has (or has not) a class: the predicted one with its runner-up, or ``class_id`` alone.

        Args:
            y: image row.
            x: image column.
            class_id: a class by number or name.
            top: prototypes (and groups) listed.

        Raises:
            ConfigError: no such pixel or class, or no data there.
        """
        class_id = class_number(self.segmenter.classes.names, class_id)
        if not (isinstance(y, int) and isinstance(x, int)):
            raise ConfigError(f"pixel ({y!r}, {x!r}): expected a row and a column, whole numbers")
        logits = self.logits(torch.tensor([y]), torch.tensor([x]))[0]
        order = logits.argsort(descending=True).tolist()
        self._require_data(y, x)
        if class_id is not None:
            return self._pixel(y, x, class_id, logits, top)
        evidence = self._pixel(y, x, order[0], logits, top)
        return evidence if len(order) == 1 else replace(evidence, runner_up=self._pixel(y, x, order[1], logits, top))

    def region_evidence(self, mask: Tensor, class_id: int | str | None = None, top: int = 10) -> Evidence:
        """Mean contributions over the pixels of a mask.

        Args:
            mask: bool (h, w) over the region.
            class_id: the explained class, by number or name; None = the one predicted most often there.
            top: prototypes (and groups) listed.

        Raises:
            ConfigError: no such class, or a mask that does not fit.
        """
        ys, xs = self._pixels(mask.cpu() & self._known if tuple(mask.shape) == self.size else mask)
        class_id = class_number(self.segmenter.classes.names, class_id)
        if class_id is None:
            class_id = int(torch.bincount(self.strongest[mask.cpu() & self._known].long()).argmax())
        index, cell_weights = self._cells(ys, xs)
        weight = torch.zeros(self.field.grid[0].numel(), device=cell_weights.device, dtype=torch.float64)
        weight.index_add_(0, index.flatten(), cell_weights.flatten().double())
        cells = weight.nonzero().flatten()
        mean = (weight[cells] / len(ys)).float()[None]
        all_cells = torch.arange(len(cells), device=cells.device)[None]
        shares = mix(self._cell_shares(cells, torch.full_like(cells, class_id)), all_cells, mean)
        activations = self._activations.flatten(1)[:, cells] @ mean[0]
        return Evidence(**list_evidence(self.segmenter, class_id, shares, activations, top))

    def winning_prototype(self) -> Tensor:
        """int32 (h, w): what (black box: which channel) contributes most to the predicted class; -1: no image there."""
        return self._winners[0]

    def winning_group(self) -> Tensor | None:
        """int32 (h, w): the group that contributes most to the predicted class, -1: no data; None without groups."""
        return self._winners[1]

    def activation_map(self, prototype: int) -> Tensor:
        """float (h, w): a prototype's activation, upsampled.

        Raises:
            ConfigError: no such prototype.
        """
        count = len(self._activations)
        if not (isinstance(prototype, int) and 0 <= prototype < count):
            raise ConfigError(f"{self.unit} {prototype!r}: expected 0..{count - 1}")
        return self._upsample(self._activations[prototype])

    def group_map(self, group: int) -> Tensor:
        """float (h, w): a group's activation (the geometric mean of its members' similarity ratios), upsampled.

        Raises:
            ConfigError: the model has no such group.
        """
        head = self.segmenter.head
        if head.grouping is None:
            raise ConfigError(f"a {head.kind} head has no groups")
        count = len(head.grouping.class_of_group)
        if not 0 <= group < count:
            raise ConfigError(f"group {group}: expected 0..{count - 1}")
        with torch.no_grad():
            return self._upsample(head.grouping(self._activations[None])[0, group])

    def completeness_error(self, sample: int | None = 4096, seed: int = 0) -> float:
        """The largest ``|sum + offset - logit| / max(|logit|, sum |share|)`` over predicted classes and runners-up.

        Why so divided: large shares of either sign may cancel to a small logit, whose rounding is that of the shares.
        Sums are taken in float64, so that what is measured is the error of the shares and not of adding them up.

        Args:
            sample: pixels looked at, chosen at random; None = all.
            seed: of that choice.
        """
        from segproto.model.completeness import completeness_error

        return completeness_error(self, sample, seed)

    def summary(self, top: int = 10) -> list[dict[str, Any]]:
        """Per predicted class, the largest area first: pixels, share of the region, confidence and mean evidence."""
        pixels = torch.bincount(self.strongest[self._known].long())
        rows = []
        for class_id in pixels.argsort(descending=True)[: int((pixels > 0).sum())].tolist():
            mask = self.prediction == class_id
            evidence = self.region_evidence(mask, class_id, top).to_json()
            area, confidence = float(mask.float().mean()), float(self.confidence[mask].mean())
            rows.append({"pixels": int(pixels[class_id]), "area": area, "confidence": confidence, **evidence})
        return rows

    def save(self, out: Path | str, top: int = 8) -> None:
        """Writes maps, overlays, patches and ``explanation.json``; see :func:`segproto.model.overlays.save`."""
        from segproto.model.overlays import save

        save(self, out, top)

    def overlay(self) -> Tensor:
        """The prediction over the region's image: uint8 (3, h, w)."""
        return colour_labels(self.image, self.prediction, dict(enumerate(self.segmenter.classes.colours)))

    def plot(self) -> Figure:
        """Image, prediction, confidence and the prototypes that decide, as a figure of matplotlib."""
        from segproto.model.plots import plot_explanation

        return plot_explanation(self)

    def __repr__(self) -> str:
        from segproto.model.words import explanation_words

        return explanation_words(self)

    def _repr_png_(self) -> bytes:
        return Shown(beside(self.image, self.overlay()))._repr_png_()

    @cached_property
    def _activations(self) -> Tensor:
        """(P, gh, gw) on the grid."""
        with torch.no_grad():
            return self.segmenter.head.activations(self.features)[0]

    @cached_property
    def _winners(self) -> tuple[Tensor, Tensor | None]:
        labels = self.strongest.flatten()
        prototypes, groups = [], []
        for part in torch.chunk(torch.arange(labels.numel()), self.chunks(labels.numel())):
            ys, xs = part // self.size[1] + self.region[0], part % self.size[1] + self.region[1]
            shares = self.evidence(ys, xs, labels[part].long())
            prototypes.append(shares.prototypes.max(1)[1].int().cpu())
            if shares.groups is not None:
                groups.append(shares.groups.max(1)[1].int().cpu())
        winners = [torch.cat(part).view(self.size) for part in (prototypes, groups) if part]
        winners = [torch.where(self._known, part, -1) for part in winners]
        return winners[0], winners[1] if groups else None

    @cached_property
    def _known(self) -> Tensor:
        """bool (h, w): where there is an image."""
        return torch.ones(self.size, dtype=torch.bool) if self.inside is None else self.inside

    @property
    def no_data(self) -> float:
        """Share of the region's pixels that hold no image."""
        return 1 - float(self._known.float().mean())

    def _require_data(self, y: int, x: int) -> None:
        if not bool(self._known[y - self.region[0], x - self.region[1]]):
            raise ConfigError(
                f"pixel ({y}, {x}): no data here, {self.name} holds no image at this pixel (nodata, or a mask of the "
                "file's own): there is nothing to explain; data.nodata=none would have taken its numbers for an image"
            )

    def chunks(self, pixels: int) -> int:
        """Parts in which the contributions of so many pixels are worked out, to bound the memory."""
        return -(-pixels * self._activations.shape[0] // CHUNK)

    @torch.no_grad()
    def _cell_shares(self, cells: Tensor, classes: Tensor) -> Contributions:
        """The head's account of (N,) cells (row-major index) and classes."""
        return self.segmenter.head.contributions(self.features[0].flatten(1)[:, cells].T, classes)

    def _pixel(self, y: int, x: int, class_id: int, logits: Tensor, top: int) -> PixelEvidence:
        ys, xs = torch.tensor([y]), torch.tensor([x])
        index, cell_weights = self._cells(ys, xs)
        activations = self._activations.flatten(1)[:, index[0]] @ cell_weights[0]
        fields = list_evidence(
            self.segmenter, class_id, self.evidence(ys, xs, torch.tensor([class_id])), activations, top
        )
        return PixelEvidence(
            **fields, y=y, x=x, probability=float(self.segmenter.head.probabilities(logits, 0)[class_id])
        )

    def _cells(self, ys: Tensor, xs: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Field.cells``, for image coordinates, on the model's device."""
        y0, x0, y1, x1 = self.region
        if bool(((ys < y0) | (ys >= y1) | (xs < x0) | (xs >= x1)).any()):
            raise ConfigError(f"pixel outside the explained region: rows {y0}..{y1 - 1}, columns {x0}..{x1 - 1}")
        index, cell_weights = self.field.cells(ys - self.origin[0], xs - self.origin[1])
        return index.to(self.features.device), cell_weights.to(self.features.device)

    def _pixels(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        if tuple(mask.shape) != self.size or not bool(mask.any()):
            raise ConfigError(f"mask {tuple(mask.shape)}: expected {self.size} with at least one pixel of the image")
        ys, xs = mask.cpu().nonzero(as_tuple=True)
        return ys + self.region[0], xs + self.region[1]

    def _region_rows(self, field: Field) -> Iterator[Tensor]:
        """A field's values (K, R, w) in the region, a few rows at a time."""
        left, right = self.region[1] - self.origin[1], self.region[3] - self.origin[1]
        top, bottom = self.region[0] - self.origin[0], self.region[2] - self.origin[0]
        rows = max(1, CHUNK // (field.grid.shape[0] * field.size[1]))
        for start in range(top, bottom, rows):
            yield field.rows(start, min(start + rows, bottom))[..., left:right]

    def _upsample(self, grid: Tensor) -> Tensor:
        field = Field(grid[None], self.field.size, self.field.step)
        return torch.cat([part[0] for part in self._region_rows(field)]).cpu()
