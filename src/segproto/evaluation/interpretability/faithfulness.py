"""Deletes and inserts the regions of a class's most used prototypes, and random regions of equal area."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from segproto.evaluation.interpretability.axes import lines
from segproto.evaluation.interpretability.chosen import OneClassSuite, cell_evidence
from segproto.evaluation.interpretability.metric import Metric, Subject
from segproto.evaluation.interpretability.views import View, encode, generator
from segproto.metrics.faithfulness import Faithfulness, blurred, random_fields, top_regions
from segproto.prototypes.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from segproto.model.head import Head

BATCH = 8
STREAM = 4


class FaithfulnessSuite(OneClassSuite):
    """One class per image; ``2 * areas * (2 * tops + draws) + 2`` forward passes each.

    Inserting a random region gives the picture in which the rest, a random region too, is deleted: seen once.

    Args:
        subject: with prototypes.
    """

    metric: Faithfulness

    def __init__(self, subject: Subject) -> None:
        self.model, self.config = subject.model, subject.config
        super().__init__(subject, Faithfulness(self.config.tops, self.config.areas))

    def look(self, view: View, class_id: int) -> None:
        cells = view.labels.flatten() == class_id
        regions = self._regions(view, class_id, cells)  # (R + draws, S, N)
        pictures = self._pictures(view, cells, regions)
        scores = torch.cat([self._score(p, class_id, view.labels) for p in torch.split(pictures, BATCH)])
        passes = len(scores)
        tops, (count, areas) = len(self.config.tops), regions.shape[:2]
        deleted = scores[: 2 * count * areas].T.view(3, 2, count, areas)
        inserted = scores[2 * count * areas : -2].T.view(3, 2, tops, areas)
        random = deleted[:, :, tops:].mean(2, keepdim=True)
        both = [torch.cat([deleted[:, :, :tops], random], 2), torch.cat([inserted, random.flip(-1)], 2)]
        curves, empty = torch.stack(both, 1), scores[-2:].T
        intact = _measures(self.model.head, view.logits[None], class_id, view.labels)[0]
        self.metric.update(curves, intact, empty, view.index, passes)

    def _regions(self, view: View, class_id: int, cells: Tensor) -> Tensor:
        """Cells of the prototypes' regions, then of the random ones."""
        evidence = cell_evidence(self.model.head, view.cell_features, class_id).cpu()
        order = evidence[cells].mean(0).argsort(descending=True, stable=True)
        scores = torch.stack([evidence[:, order[:k]].sum(1) for k in self.config.tops])
        random = random_fields(self.config.draws, view.grid, generator(self.config.seed, STREAM, view.index))
        return top_regions(torch.cat([scores, random]), cells, self.config.areas)

    def _pictures(self, view: View, cells: Tensor, regions: Tensor) -> Tensor:
        """Normalised images: all regions deleted (fills x regions x areas), prototypes' inserted, the class deleted."""
        image = self.model.encoder.normalisation(view.sample.image)[None]
        mean = image.mean((2, 3), keepdim=True).expand_as(image)
        kernel = min(image.shape[-2:]) // 8 * 2 + 1
        fills = (mean, blurred(image, kernel))
        inside = regions.flatten(0, 1)[:, view.cells][:, None]  # (R * S, 1, H, W)
        of_class = cells[view.cells][None, None]
        parts = [torch.where(inside, fill, image) for fill in fills]
        of_prototypes = inside[: len(self.config.tops) * regions.shape[1]]
        parts += [torch.where(of_class & ~of_prototypes, fill, image) for fill in fills]
        parts += [torch.where(of_class, fill, image) for fill in fills]
        return torch.cat(parts)

    def _score(self, images: Tensor, class_id: int, labels: Tensor) -> Tensor:
        return _measures(self.model.head, self.model.head(encode(self.model, images)).float(), class_id, labels)


def _measures(head: Head, logits: Tensor, class_id: int, labels: Tensor) -> Tensor:
    """(B, 3): mean logit and probability over the class's cells, and its IoU on the grid; void does not count.

    Args:
        head: which says what its logits are as probabilities.
        logits: (B, C, h, w).
        class_id: the class.
        labels: (h, w), 255 = void.
    """
    logits = logits.cpu()
    own = labels == class_id
    probability = head.probabilities(logits)[:, class_id]
    predicted = (logits.argmax(1) == class_id) & (labels != IGNORE_INDEX)
    union = (predicted | own).sum((1, 2)).clamp_min(1)
    iou = (predicted & own).sum((1, 2)) / union
    return torch.stack([logits[:, class_id][:, own].mean(1), probability[:, own].mean(1), iou], 1)


def draw_deletion(axes: Axes, figures: dict[str, Any]) -> None:
    """The probability of the class against the share of it that is deleted, a line per region."""
    rows = [r for r in figures["rows"] if (r["measure"], r["mode"], r["fill"]) == ("probability", "delete", "mean")]
    curves = [(r["region"], figures["fractions"], r["curve"]) for r in rows]
    lines(axes, curves, "share of the class deleted (mean colour)", "probability of the class")


FAITHFULNESS = Metric(
    name="faithfulness",
    meaning="By how much deleting what the most used prototypes point at lowers the class's probability further than "
    "deleting random regions of equal area: above 0 means that the explanation points at what the model uses.",
    how="Also for inserting, for logits and IoU, for the top 1, 3 and 5 prototypes, mean colour and blur, with all "
    "curves.",
    unknown="random regions have no gain: the others are compared with them",
    unit="probability",
    range=(-1, 1),
    start=FaithfulnessSuite,
    few=True,
    panels=(draw_deletion,),
)
