"""Cascade randomisation: readout, groups, prototypes, encoder, one after the other and each on top of the last."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor

from segproto.evaluation.interpretability.chosen import OneClassSuite, model_evidence
from segproto.evaluation.interpretability.metric import Metric, Subject
from segproto.evaluation.interpretability.views import View, encode, generator
from segproto.metrics.sanity import Sanity, compare_explanations, permuted
from segproto.model.head import Head
from segproto.model.segmenter import Segmenter

STREAM = 5


class SanitySuite(OneClassSuite):
    """The explanations of one class per image, by the model and by randomised copies of it.

    Args:
        subject: with prototypes.
    """

    metric: Sanity

    def __init__(self, subject: Subject) -> None:
        self.copies = randomised_copies(subject.model, subject.config.seed)
        super().__init__(subject, Sanity([name for name, _ in self.copies]))

    def look(self, view: View, class_id: int) -> None:
        before = model_evidence(view.model, view.features, class_id).cpu()
        image = view.model.encoder.normalisation(view.sample.image)[None]
        rows = []
        for name, model in self.copies:
            features = encode(model, image) if name == "encoder" else view.features
            rows.append(compare_explanations(before, model_evidence(model, features, class_id).cpu()))
        self.metric.update(torch.tensor(rows), view.index)


@torch.no_grad()
def randomised_copies(model: Segmenter, seed: int) -> list[tuple[str, Segmenter]]:
    """Copies with ever more randomised: each tensor's entries are put in random order, so their sizes stay."""
    random = generator(seed, STREAM)
    copies: list[tuple[str, Segmenter]] = []

    def step(name: str, tensors: Sequence[Tensor]) -> None:
        for value in tensors:
            value.copy_(permuted(value, random))
        copies.append((name, deepcopy(current)))

    current = deepcopy(model).eval()
    bank, grouping = current.head.bank, current.head.grouping
    assert bank is not None
    if readout := readout_weights(current.head):
        step("readout", readout)
    if grouping is not None:
        rows = [group[: int(mask.sum())] for k, mask in enumerate(grouping.mask) for group in grouping.weights[k]]
        step("groups", rows)
    step("prototypes", list(bank.parameters()) or [bank.vectors])
    step("encoder", [p for p in current.encoder.parameters() if p.ndim > 0])
    return copies


def readout_weights(head: Head) -> list[Tensor]:
    """What a head reads its units with: the parameters of its readout that are no biases."""
    readout = {id(p) for p in head.parts().readout}
    return [p for name, p in head.named_parameters() if id(p) in readout and not name.endswith("bias")]


SANITY = Metric(
    name="sanity",
    meaning="Rank correlation of explanations before and after the whole model was randomised: near 0 "
    "means that explanations depend on what was learned.",
    how="Readout, groups, prototypes and encoder are randomised one after the other; the value is that of the last "
    "step.",
    unknown="nothing varies there, so there is no correlation",
    unit="correlation",
    range=(-1, 1),
    start=SanitySuite,
    few=True,
)
