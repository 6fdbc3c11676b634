"""Cascade randomisation: readout, groups, prototypes, encoder, one after the other and each on top of the last."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from segproto.evaluation.interpretability.chosen import chosen_class, model_evidence
from segproto.evaluation.interpretability.config import InterpretabilityConfig
from segproto.evaluation.interpretability.views import View, encode, generator
from segproto.metrics.sanity import Sanity, compare_explanations, permuted
from segproto.model.evidence import bank_of
from segproto.model.heads import GroupedHead, NearestHead
from segproto.model.segmenter import Segmenter

STREAM = 5


class SanitySuite:
    """The explanations of one class per image, by the model and by randomised copies of it.

    Args:
        model: with prototypes.
        config: what is measured.
    """

    def __init__(self, model: Segmenter, config: InterpretabilityConfig) -> None:
        self.config = config
        self.copies = randomised_copies(model, config.seed)
        self.metric = Sanity([name for name, _ in self.copies])

    def update(self, view: View) -> None:
        """Takes one image in; one that shows no class large enough is left out."""
        class_id = chosen_class(view, self.config.smallest, self.config.seed)
        if class_id is None:
            return
        before = model_evidence(view.model, view.features, class_id).cpu()
        image = view.model.encoder.normalisation(view.sample.image)[None]
        rows = []
        for name, model in self.copies:
            features = encode(model, image) if name == "encoder" else view.features
            rows.append(compare_explanations(before, model_evidence(model, features, class_id).cpu()))
        self.metric.update(torch.tensor(rows), view.index)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything seen so far."""
        return self.metric.state_dict()

    def merge(self, state: dict[str, Tensor]) -> None:
        """Takes in the state of another process."""
        self.metric.merge(state)

    def compute(self) -> dict[str, Any]:
        """See :meth:`segproto.metrics.sanity.Sanity.compute`."""
        return self.metric.compute()


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
    head = current.head
    bank = bank_of(head)
    assert bank is not None
    if isinstance(head, NearestHead):
        norms = [norm.weight for norm in (head.feature_norm, head.score_norm) if norm is not None]
        if norms:
            step("readout", norms)
    else:
        step("readout", [head.get_parameter("readout")])
    if isinstance(head, GroupedHead):
        rows = [
            group[: int(mask.sum())] for k, mask in enumerate(head.grouping.mask) for group in head.grouping.weights[k]
        ]
        step("groups", rows)
    step("prototypes", [bank.vectors])
    step("encoder", [p for p in current.encoder.parameters() if p.ndim > 0])
    return copies
