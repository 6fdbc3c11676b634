"""All metrics that need one look at each image (two for stability), accumulated together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from segproto.evaluation.interpretability.config import InterpretabilityConfig
from segproto.evaluation.interpretability.views import View, encode, generator
from segproto.metrics.accumulate import Accumulator
from segproto.metrics.components import Components
from segproto.metrics.consistency import Consistency, Presence, Stability, part_presence
from segproto.metrics.keypoints import Keypoints
from segproto.metrics.overlap import Overlap
from segproto.metrics.pointing import Pointing
from segproto.metrics.purity import Purity, cell_parts
from segproto.metrics.usage import Coverage, Usage
from segproto.model.evidence import bank_of
from segproto.model.heads import GroupedHead
from segproto.model.segmenter import Segmenter

NOISE, PIXELS = 0, 1  # streams of random numbers


def used_prototypes(model: Segmenter, config: InterpretabilityConfig) -> Tensor:
    """bool (P,): the prototypes that count."""
    bank = bank_of(model.head)
    assert bank is not None
    if config.used_only and isinstance(model.head, GroupedHead):
        return model.head.grouping.used_prototypes().cpu()
    return torch.ones(bank.num_prototypes, dtype=torch.bool)


class GridSuite:
    """The accumulators, fed together.

    Args:
        model: with prototypes.
        config: what is measured.
        num_parts: part ids are 0..num_parts-1; 0 = the data have no parts.
    """

    def __init__(self, model: Segmenter, config: InterpretabilityConfig, num_parts: int) -> None:
        bank = bank_of(model.head)
        assert bank is not None
        self.model, self.config, self.num_parts = model, config, num_parts
        self.class_of, self.num_classes = bank.class_of.cpu(), bank.num_classes
        self.keep = used_prototypes(model, config)
        classes, quantiles = self.num_classes, config.quantiles
        self.metrics: dict[str, Accumulator | Purity] = {}
        if num_parts and config.wants("consistency"):
            self.metrics["consistency"] = Consistency(self.class_of, num_parts, quantiles, config.consistency_limit)
        if num_parts and config.wants("stability"):
            self.metrics["stability"] = Stability(self.class_of, quantiles)
        if num_parts and config.wants("purity"):
            self.metrics["purity"] = Purity(self.class_of, num_parts, config.purity_images)
        if isinstance(model.head, GroupedHead) and config.wants("group_overlap"):
            owner = model.head.grouping.class_of_group
            self.metrics["group_overlap"] = Overlap(owner, classes, config.overlap_quantiles)
        if config.wants("prototype_overlap"):
            self.metrics["prototype_overlap"] = Overlap(self.class_of[self.keep], classes, config.overlap_quantiles)
        if config.wants("components"):
            scales = bank.scale_of.cpu()[self.keep]
            self.metrics["components"] = Components(scales, bank.num_scales, config.component_quantiles)
        if config.wants("pointing"):
            self.metrics["pointing"] = Pointing(self.class_of, classes, config.band)
        if config.wants("coverage"):
            self.metrics["coverage"] = Coverage(self.class_of, classes, quantiles, self.keep)
        if config.wants("health", "neighbours", "nearest"):
            self.metrics["usage"] = Usage(self.class_of, classes, config.neighbours, self.keep)

    def update(self, view: View) -> None:
        """Takes one image in."""
        flat = view.activations.flatten(1)
        self._update_parts(view, flat)
        self._update_maps(view)
        for metric in self.metrics.values():
            if isinstance(metric, Pointing):
                metric.update(view.activations, view.labels)
            elif isinstance(metric, Coverage):
                metric.update(flat, view.weights, view.size)
            elif isinstance(metric, Usage):
                drawn = self._draw(view)
                metric.update(flat, view.labels.flatten(), drawn)

    def _draw(self, view: View) -> Tensor:
        """Cells of pixels drawn at random."""
        cells, random = view.cells.flatten(), generator(self.config.seed, PIXELS, view.index)
        return cells[torch.randint(len(cells), (self.config.pixels,), generator=random)]

    def _update_maps(self, view: View) -> None:
        for name, metric in self.metrics.items():
            if isinstance(metric, Overlap):
                values = view.groups if name == "group_overlap" else view.activations[self.keep]
                assert values is not None
                maps, pixels = view.maps(values, self.config.maps)
                metric.update(maps.flatten(1), pixels, view.present)
            elif isinstance(metric, Components) and bool(self.keep.any()):
                metric.update(*view.maps(view.activations[self.keep], self.config.maps))

    def _update_parts(self, view: View, flat: Tensor) -> None:
        points = view.keypoints(self.config.background_centroid) if self.num_parts else None
        if points is None or view.part_map is None:
            return
        consistency, stability = self.metrics.get("consistency"), self.metrics.get("stability")
        purity = self.metrics.get("purity")
        if consistency is not None or stability is not None:
            clean = self._presence(view, view.activations, points)
            if isinstance(consistency, Consistency):
                consistency.update(clean)
            if isinstance(stability, Stability) and len(points.part):
                stability.update(clean, self._presence(view, self._noisy(view), points))
        if isinstance(purity, Purity):
            classes = torch.bincount(points.class_id).nonzero()[:, 0]
            found = cell_parts(view.part_map, view.sample.mask, view.cells, flat.shape[1], self.num_parts, classes)
            purity.update(flat, found, classes, view.index)

    def _presence(self, view: View, activations: Tensor, points: Keypoints) -> Presence:
        return part_presence(
            activations,
            view.sample.mask,
            points,
            self.class_of,
            self.num_parts,
            area=view.area,
            num_classes=self.num_classes,
            quantiles=self.config.quantiles,
            within=self.config.within,
        )

    def _noisy(self, view: View) -> Tensor:
        """Activations (P, h, w) of the image with noise."""
        image = self.model.encoder.normalisation(view.sample.image)
        noise = torch.randn(image.shape, generator=generator(self.config.seed, NOISE, view.index))
        features = encode(self.model, (image + self.config.noise * noise)[None])
        return View(self.model, view.sample, view.index, features).activations

    def state_dict(self) -> dict[str, Tensor]:
        """Everything seen so far."""
        return {f"{name}/{key}": v for name, metric in self.metrics.items() for key, v in metric.state_dict().items()}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Takes in the state of another process."""
        for name, metric in self.metrics.items():
            prefix = f"{name}/"
            metric.merge({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    def compute(self, leave_out: Tensor) -> dict[str, Any]:
        """The figures by metric.

        Args:
            leave_out: bool (C,) classes whose prototypes do not count for metrics on parts.
        """
        kept = self.keep & ~leave_out[self.class_of]
        found: dict[str, Any] = {}
        for name, metric in self.metrics.items():
            if isinstance(metric, Consistency | Stability | Purity):
                found[name] = metric.compute(kept)
            elif isinstance(metric, Pointing):
                found[name] = metric.compute(self.keep)
            elif isinstance(metric, Usage):
                found |= {"health": metric.usage(), "neighbours": metric.neighbours(), "nearest": metric.nearest()}
            elif isinstance(metric, Overlap | Components | Coverage):
                found[name] = metric.compute()
        return found
