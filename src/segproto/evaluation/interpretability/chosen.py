"""The class of an image that the faithfulness and the sanity test look at, and the evidence for it."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from segproto.evaluation.interpretability.metric import OneAccumulator
from segproto.evaluation.interpretability.views import View, generator
from segproto.model.heads import Head
from segproto.model.segmenter import Segmenter
from segproto.prototypes.labels import IGNORE_INDEX

STREAM = 3


class OneClassSuite(OneAccumulator):
    """Looks at one class of each image; an image that shows no class large enough is left out.

    Args:
        subject: with prototypes.
        metric: accumulates it.
    """

    def update(self, view: View) -> None:
        class_id = chosen_class(view, self.subject.config.smallest, self.subject.config.seed)
        if class_id is not None:
            self.look(view, class_id)

    @abstractmethod
    def look(self, view: View, class_id: int) -> None:
        """Takes one image and a class of it in."""


def chosen_class(view: View, smallest: float, seed: int) -> int | None:
    """One of the classes that cover enough of the image and are predicted somewhere, at random; None without any."""
    shares = torch.bincount(view.labels[view.labels != IGNORE_INDEX], minlength=view.model.head.num_classes).double()
    predicted = torch.bincount(view.logits.argmax(0).flatten().cpu(), minlength=len(shares)) > 0
    candidates = ((shares / view.labels.numel() >= max(smallest, 1e-9)) & predicted).nonzero()[:, 0]
    if not len(candidates):
        return None
    return int(candidates[torch.randint(len(candidates), (1,), generator=generator(seed, STREAM, view.index))])


def cell_evidence(head: Head, features: Tensor, class_id: int) -> Tensor:
    """Contributions (N, P) to a class's logit at all cells of ``cell_features`` (1, F, h, w)."""
    cells = features[0].flatten(1).T
    classes = torch.full((len(cells),), class_id, dtype=torch.int64, device=cells.device)
    return head.contributions(cells, classes).prototypes


def model_evidence(model: Segmenter, features: Tensor, class_id: int) -> Tensor:
    """The same from squashed features (1, F, h, w)."""
    return cell_evidence(model.head, model.head.cell_features(features), class_id)
