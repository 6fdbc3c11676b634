"""What a model's explanations cost: readout weights, parameters beyond the black box, images per second."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from segproto.data.base import Sample
from segproto.evaluation.interpretability.metric import Metric, of_model
from segproto.evaluation.interpretability.views import encode
from segproto.metrics.accumulate import scored
from segproto.model.segmenter import Segmenter

RUNS = 3


def cost_card(model: Segmenter, sample: Sample) -> dict[str, Any]:
    """The card of a model.

    Returns:
        ``value``: mean absolute readout weight; ``learnable`` and ``stored``: numbers in the head beyond a plain 1x1
        classifier (weights and biases) on the same features; ``used``: the same with only the prototypes and groups in
        use, as the paper counts (prototypes + group matrices + readout - classifier weights); ``images_per_second`` at
        the size of ``sample``, one at a time, with ``threads`` on ``device``.
    """
    head, channels = model.head, model.encoder.num_features
    classifier = head.num_classes * (channels + 1)
    learnable = sum(p.numel() for p in head.parameters())
    integers = {torch.int64, torch.int32, torch.bool}
    stored = sum(v.numel() for v in head.state_dict().values() if v.dtype not in integers)
    weights = head.unit_weights()
    weight = None if weights is None else float(weights.detach().abs().mean())
    return scored(
        weight,
        "this head has no readout weights",
        learnable=learnable - classifier,
        stored=stored - classifier,
        used=used_parameters(model),
        images_per_second=_speed(model, sample),
        image_size=list(sample.image.shape[-2:]),
        threads=torch.get_num_threads(),
        device=str(next(model.parameters()).device),
    )


def used_parameters(model: Segmenter) -> int | None:
    """Table 10 of Porta et al. 2025: D * (prototypes used) + n_c per group + the dense readout - D * C."""
    head = model.head
    bank, grouping, weights = head.bank, head.grouping, head.unit_weights()
    if bank is None or weights is None:
        return None
    own = bank.num_prototypes
    groups = 0
    if grouping is not None:
        own = int(grouping.used_prototypes().sum())
        groups = int(grouping.mask.sum()) * grouping.groups
    return bank.dim * own + groups + weights.numel() - bank.dim * head.num_classes


@torch.no_grad()
def _speed(model: Segmenter, sample: Sample) -> float:
    image = model.encoder.normalisation(sample.image)[None]
    size = (image.shape[-2], image.shape[-1])
    times = []
    for _ in range(RUNS + 1):
        begin = time.perf_counter()
        model.upsample(model.head(encode(model, image)), size).argmax(1).cpu()
        times.append(time.perf_counter() - begin)
    return 1 / min(times[1:])


COST = Metric(
    name="cost",
    meaning="Mean absolute readout weight, numbers stored beyond a plain classifier, and speed: what explanations "
    "cost.",
    how="Numbers in the head: learnable, stored, and in use as the paper counts; speed in images per second.",
    unknown="the paper's count of parameters in use is for prototypes with a readout",
    unit="readout weight",
    range=(0, math.inf),
    needs=(),
    start=of_model(lambda subject: cost_card(subject.model, subject.dataset[0])),
)
