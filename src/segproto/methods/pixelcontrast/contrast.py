"""Training of the CAM network, and of its affinities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.data.batch import Batch
from segproto.methods.pixelcontrast.build import begin_affinity
from segproto.methods.pixelcontrast.config import (
    AffinityConfig,
    ContrastConfig,
    PixelcontrastRecipe,
    TrainedStage,
)
from segproto.methods.pixelcontrast.products import SCORES
from segproto.methods.pixelcontrast.tagged import (
    LEVELS,
    averaged_labels,
    image_tags,
    with_affinity_labels,
    with_positions,
    without_masks,
)
from segproto.model.cam_head import AffineHead, CamMaps, MapHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.labels import IGNORE_INDEX, resize_labels
from segproto.prototypes.pixel_contrast import contrast_losses, view_of
from segproto.refine.affinity import affinity, affinity_loss, cell_pairs, pair_labels
from segproto.refine.seam import saliency_loss, tag_loss, to_size, view_losses
from segproto.training.procedures.optimise import NORMS, pad_masks
from segproto.training.procedures.require import require_head
from segproto.training.stage import Optimise, ParamGroup


def contrast_stage(recipe: PixelcontrastRecipe) -> Optimise:
    """The CAM network learns from tags."""
    config = recipe.stages.contrast
    loss = ContrastLoss(config, recipe.tags)
    stage = _stage("contrast", config, loss, loss.prepare, affinity=False)

    def begin(model: Segmenter) -> None:
        require_head(model, "contrast", MapHead).pooled = config.pooled  # it believes in a class as it is taught to

    return replace(stage, begin=begin, words="a network of activation maps learns from the tags")


def affinity_stage(recipe: PixelcontrastRecipe) -> Optimise:
    """The affinities learn from sure pixels of the CAMs."""
    config = recipe.stages.affinity
    loss = PairLoss(config)
    stage = _stage("affinity", config, loss, loss.prepare, affinity=True)
    words = "cells of sure pixels teach which neighbours are of one class"
    return replace(stage, begin=lambda model: begin_affinity(model, recipe), words=words)


def _stage(
    name: str,
    config: TrainedStage,
    loss: Callable[[Segmenter, Batch], dict[str, Tensor]],
    dataset: Callable[[SegmentationDataset, Path], SegmentationDataset],
    *,
    affinity: bool,
) -> Optimise:
    return Optimise(
        name=name,
        steps=config.steps,
        parameters=lambda model: _groups(model, config, name, affinity),
        loss=loss,
        mode=lambda model: _set_mode(model, config),
        dataset=dataset,
        optimizer=config.optimizer,
        schedule=config.schedule,
        momentum=config.momentum,
        horizon=config.horizon,
        augment=config.augment,
    )


def _groups(model: Segmenter, config: TrainedStage, name: str, affinity: bool) -> list[ParamGroup]:
    lr, groups = config.lr, list[ParamGroup]()
    head = require_head(model, name, AffineHead) if affinity else require_head(model, name, MapHead)
    if lr.backbone > 0 and not model.encoder.config.frozen:
        groups.append(ParamGroup(_trained(model.encoder.backbone, config), lr.backbone, config.weight_decay))
    if lr.neck > 0:
        groups.append(ParamGroup(_trained(model.encoder.neck, config), lr.neck, config.weight_decay))
    if lr.head > 0:
        groups.append(ParamGroup(head.trained_for(affinity), lr.head, config.weight_decay))
    return [group for group in groups if group.params]


def _trained(module: torch.nn.Module, config: TrainedStage) -> list[torch.nn.Parameter]:
    norms = {p for m in module.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    never = {p for name in getattr(module, "untrained", ()) for p in module.get_submodule(name).parameters()}
    return [p for p in module.parameters() if (config.norms == "train" or p not in norms) and p not in never]


def _set_mode(model: Segmenter, config: TrainedStage) -> None:
    model.train()
    if config.norms == "frozen":
        for module in model.encoder.modules():
            if isinstance(module, NORMS):
                module.training = False


class ContrastLoss:
    """Tags, agreement of two views, and contrast (Du et al. 2022, section 3).

    Args:
        config: of the stage.
        tags_from: as :func:`~segproto.methods.pixelcontrast.tagged.image_tags` reads it.
    """

    def __init__(self, config: ContrastConfig, tags_from: Path | None) -> None:
        self.config, self.tags_from = config, tags_from
        self.rows: dict[str, int] = {}
        self.tags = torch.ones(0, 0)

    def prepare(self, dataset: SegmentationDataset, _out: Path) -> SegmentationDataset:
        """Reads the tags once; the images then have no masks any more."""
        self.tags = image_tags(self.tags_from, dataset)
        self.rows = {name: row for row, name in enumerate(dataset.names)}
        return without_masks(dataset, self.config.saliency, bicubic=self.config.saliency_resize == "bicubic")

    def __call__(self, model: Segmenter, batch: Batch) -> dict[str, Tensor]:
        head = require_head(model, "contrast", MapHead)
        assert batch.images is not None
        images, config = batch.images, self.config
        tags = self._labels(batch, head.num_classes)
        labels = tags.to(images.device, non_blocking=True)
        if config.second_view is None:
            return self._one_view(head.maps(model.features(images)).cam.float(), batch, labels)
        small = to_size(images, (self._smaller(images.shape[2]), self._smaller(images.shape[3])))
        first, second = (_float(head.maps(model.features(view))) for view in (images, small))
        maps = (first.cam, first.refined, second.cam, second.refined)
        sizes = None if config.compare == "grid" else (size_of(images), size_of(small))
        terms = view_losses(*maps, tags, winners_over=config.winners_over, sizes=sizes, pooled=config.pooled)
        loss = terms["tags"] + config.er * terms["er"] + config.ecr * terms["ecr"]
        if config.contrast > 0:
            contrasts = self._contrast(first, second, labels)
            terms |= contrasts
            loss = loss + config.contrast * torch.stack(list(contrasts.values())).sum()
        if config.saliency is not None:
            levels = saliency_levels(batch)
            own = to_size(levels, size_of(small)) if config.saliency_views == "each" else levels
            pairs = [(first.cam, levels), (second.cam, own), (first.refined, levels), (second.refined, own)]
            terms["saliency"] = self._saliency(pairs, labels) / 2
            loss = loss + terms["saliency"]
        return {"loss": loss, **terms}

    def _one_view(self, cam: Tensor, batch: Batch, labels: Tensor) -> dict[str, Tensor]:
        """Tags and saliency of raw maps alone (Lee et al. 2021, eq. 6)."""
        terms = {"tags": tag_loss(cam, labels, pooled=self.config.pooled)}
        if self.config.saliency is not None:
            terms["saliency"] = self._saliency([(cam, saliency_levels(batch))], labels)
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def _smaller(self, side: int) -> int:
        return max(round(side * (self.config.second_view or 1)), 1)

    def _labels(self, batch: Batch, num_classes: int) -> Tensor:
        if not batch.names:  # the estimate of memory before the stage
            return torch.ones(len(batch.masks), num_classes)
        return self.tags[[self.rows[name] for name in batch.names]]

    def _contrast(self, first: CamMaps, second: CamMaps, labels: Tensor) -> dict[str, Tensor]:
        config, size = self.config, size_of(second.cam)
        k = max(int(config.confident * size[0] * size[1]), 1)
        views = [
            view_of(
                to_size(maps.projection, size),
                to_size(maps.refined, size),
                labels,
                background_score=config.background_score,
                k=k,
                masked=config.masked,
            )
            for maps in (first, second)
        ]
        return contrast_losses(views[0], views[1], temperature=config.temperature)

    def _saliency(self, pairs: Sequence[tuple[Tensor, Tensor]], labels: Tensor) -> Tensor:
        """Of maps, each with its saliency."""
        overlap = self.config.overlap
        terms = [saliency_loss(m, levels, labels, background=0, overlap=overlap) for m, levels in pairs]
        return torch.stack(terms).sum()


def saliency_levels(batch: Batch) -> Tensor:
    """The saliency that the masks hold, (B, 1, H, W) in 0..1; 0 outside the image."""
    return torch.where(batch.masks == IGNORE_INDEX, 0, batch.masks)[:, None].float() / LEVELS


class PairLoss:
    """Balanced cross-entropy of the affinities of pairs of sure cells.

    Args:
        config: of the stage.
    """

    def __init__(self, config: AffinityConfig) -> None:
        self.config = config
        self.scores = Path()

    def prepare(self, dataset: SegmentationDataset, out: Path) -> SegmentationDataset:
        """The images with labels of their pixels; with the pixels' places where scores are averaged over cells."""
        self.scores = out / SCORES
        masks = with_positions if self.config.labels == "averaged" else with_affinity_labels
        return masks(dataset, self.scores)

    def __call__(self, model: Segmenter, batch: Batch) -> dict[str, Tensor]:
        head = require_head(model, "affinity", AffineHead)
        assert batch.images is not None
        u = head.affinity_features(model.features(batch.images)).float()
        size = (u.shape[-2], u.shape[-1])
        pairs = cell_pairs(*size, self.config.radius, complete=self.config.complete)
        masks = pad_masks(model, batch)
        if self.config.labels == "averaged" and batch.names:  # the estimate of memory before the stage has none
            labels = averaged_labels(masks, batch.names, self.scores, size)
        else:
            labels = resize_labels(masks, size)
        return {"loss": affinity_loss(affinity(u, pairs), *pair_labels(labels, pairs))}


def _float(maps: CamMaps) -> CamMaps:
    return CamMaps(maps.cam.float(), maps.refined.float(), maps.projection.float())


def size_of(maps: Tensor) -> tuple[int, int]:
    """Height and width."""
    return maps.shape[-2], maps.shape[-1]
