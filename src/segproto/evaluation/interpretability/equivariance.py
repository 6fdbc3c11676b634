"""Quasi-equivariance: the scales of a model look at the same image at different sizes (Porta et al. 2025)."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.evaluation.interpretability.axes import lines
from segproto.evaluation.interpretability.metric import PROTOTYPES, SHARE, Metric, Need, Subject, Suite
from segproto.evaluation.interpretability.views import View, encode
from segproto.metrics.consistency import class_quantiles
from segproto.metrics.equivariance import Equivariance
from segproto.model.field import Field
from segproto.model.segmenter import Segmenter

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def scale_rates(model: Segmenter) -> tuple[float, ...] | None:
    """How many times the finest scale's field of view each scale has; None for a model of one scale."""
    bank = model.head.bank
    if bank is None or bank.num_scales < 2:
        return None
    rates = model.encoder.config.rates
    if len(rates) != bank.num_scales:
        return None
    return tuple(rate / rates[0] for rate in rates)


class EquivarianceSuite(Suite):
    """Equivariance of all pairs of scales, by one or both readings of which image is shrunk.

    Args:
        subject: with a model of several scales.
    """

    def __init__(self, subject: Subject) -> None:
        bank, rates = subject.prototypes, scale_rates(subject.model)
        assert rates is not None
        self.model, self.config, self.rates = subject.model, subject.config, rates
        self.class_of, self.scale_of = bank.class_of.cpu(), bank.scale_of.cpu()
        shape = (bank.num_classes, bank.num_scales)
        self.readings = {n: Equivariance(self.class_of, self.scale_of, *shape) for n in self.config.readings}
        super().__init__(subject, **self.readings)

    def update(self, view: View) -> None:
        """Takes one image in; at most one forward pass per shrinking factor."""
        if not bool(view.present.any()):
            return
        activations: dict[float, Tensor] = {1.0: view.activations.flatten(1)}
        for s, t in combinations(range(len(self.rates)), 2):
            for name, metric in self.readings.items():
                factors = (self.rates[t] / self.rates[s], 1.0) if name == "relative" else (self.rates[t], self.rates[s])
                maps = []
                for scale, factor in zip((s, t), factors, strict=True):
                    if factor not in activations:
                        activations[factor] = self._shrunk(view, factor)
                    maps.append(self._active(activations[factor], scale, view))
                metric.update(maps[0], maps[1], (s, t), view.weights)

    def _shrunk(self, view: View, factor: float) -> Tensor:
        """Activations (P, N) of the shrunk image at the cells of the whole one."""
        size = view.size
        small = (max(1, round(size[0] / factor)), max(1, round(size[1] / factor)))
        image = self.model.encoder.normalisation(view.sample.image)[None]
        features = encode(self.model, F.interpolate(image, size=small, mode="bilinear", align_corners=False))
        grid = self.model.head.activations(self.model.head.cell_features(features))[0].cpu()
        field = Field.over(grid, self.model.encoder, size, small)
        (h, w), (ph, pw) = view.grid, view.area
        rows = ((torch.arange(h) + 0.5) * ph / h).long().clamp(max=size[0] - 1)
        columns = ((torch.arange(w) + 0.5) * pw / w).long().clamp(max=size[1] - 1)
        index, weights = field.cells(rows.repeat_interleave(w), columns.repeat(h))
        return (grid.flatten(1)[:, index] * weights).sum(-1)

    def _active(self, values: Tensor, scale: int, view: View) -> Tensor:
        """bool (P_s, N): where the prototypes of a scale exceed their quantile over their class."""
        rows = (self.scale_of == scale).nonzero()[:, 0]
        pixels = view.weights[self.class_of[rows]]
        own = values[rows]
        limits = class_quantiles(own, pixels, view.size, (self.config.equivariance_quantile,))[0]
        return (own > limits[:, None]) & (pixels > 0)

    def compute(self) -> dict[str, Any]:
        """The first reading's figures, and every reading's under ``readings``."""
        readings = {
            name: metric.compute(threshold=self.config.equivariance_threshold) for name, metric in self.readings.items()
        }
        first = readings[self.config.readings[0]]
        reason = {"reason": first["reason"]} if "reason" in first else {}
        return {"value": first["value"], **reason, "rates": list(self.rates), "readings": readings}


def no_scales(subject: Subject) -> str | None:
    """Why a model with prototypes has no scales to compare; None if it has."""
    if scale_rates(subject.model) is not None:
        return None
    few = subject.prototypes.num_scales < 2
    return "the model has one scale" if few else "encoder.rates gives no field of view per scale"


def draw_equivariance(axes: Axes, figures: dict[str, Any]) -> None:
    """Classes with an equivariant pair against the threshold, a line per reading."""
    readings = figures["readings"].items()
    curves = [(name, [p["threshold"] for p in r["curve"]], [p["classes"] for p in r["curve"]]) for name, r in readings]
    lines(axes, curves, "IoU threshold", "classes with an equivariant pair")
    axes.set_ylim(-0.03, 1.03)


EQUIVARIANCE = Metric(
    name="equivariance",
    meaning="Share of classes with prototypes of different scales that see the same thing in images "
    "of different size: such prototypes repeat one another.",
    how="Against the IoU threshold; with example pairs, and pairs merged into groups. Two readings of which image is "
    "shrunk: `relative` (by the ratio of the scales) and `both`.",
    unknown="the class has no prototypes of two scales, or no image shows it",
    unit=SHARE,
    range=(0, 1),
    needs=(PROTOTYPES, Need("several scales", no_scales)),
    start=EquivarianceSuite,
    panels=(draw_equivariance,),
)
