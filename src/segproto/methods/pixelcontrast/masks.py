"""From maps to masks: random walk over the affinities, CRF, and the folder of masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.data.base import Sample, SegmentationDataset
from segproto.data.pixels import to_colours
from segproto.methods.pixelcontrast.backgrounds import USUAL, alpha_of
from segproto.methods.pixelcontrast.config import PixelcontrastStages
from segproto.methods.pixelcontrast.infer import background, mine, sum_over
from segproto.methods.pixelcontrast.products import CAMS, MASKS, ImageMaps, read_maps
from segproto.methods.pixelcontrast.published import published_mask
from segproto.methods.pixelcontrast.tagged import with_masks
from segproto.metrics.segmentation import ConfusionMatrix
from segproto.model.cam_head import AffineHead
from segproto.model.segmenter import Segmenter
from segproto.refine.affinity import Pairs, affinity, cell_pairs
from segproto.refine.crf import dense_crf, unary_from_probabilities
from segproto.refine.crf_settings import CrfSettings
from segproto.refine.random_walk import random_walk
from segproto.training.devices import on_first
from segproto.training.figures import Figures
from segproto.training.procedures.map_images import fold_images, map_images
from segproto.training.procedures.mask_folder import PNG, add_image, mask_pixels, save_mask, write_classes
from segproto.training.procedures.require import require_head
from segproto.training.stage import StageContext


@dataclass(frozen=True)
class Walk:
    """A random walk over the affinities of the feature grid.

    Attributes:
        radius: pairs are closer than this many cells.
        complete: all pairs of the grid; false = without those at the border.
        beta: power of the affinities.
        log_steps: the walk takes 2^log_steps steps.
    """

    radius: int
    complete: bool
    beta: float
    log_steps: int


@dataclass(frozen=True)
class MaskRule:
    """How the maps of an image become its mask.

    Attributes:
        alpha: the background is ``(1 - max)^alpha`` before the walk.
        background: a constant background instead, or None.
        walk: None = none.
        crf: of the CRF after the walk; None = none.
    """

    alpha: float
    background: float | None
    walk: Walk | None
    crf: CrfSettings | None

    @classmethod
    def of(cls, stages: PixelcontrastStages, cut: float = USUAL) -> MaskRule:
        """What a recipe says; ``cut``: where ``alpha = auto`` crosses the maps."""
        masks, pairs = stages.masks, stages.affinity
        walk = Walk(pairs.radius, pairs.complete, masks.beta, masks.log_steps) if masks.walk else None
        alpha = alpha_of(masks.alpha, cut)
        return cls(alpha, masks.background, walk, None if masks.crf is None else masks.crf.settings())


@torch.no_grad()
def make_masks(context: StageContext, rule: MaskRule, given: Path | None) -> Figures:
    """Masks of all training images, a folder data set in the run, scored where there are true ones.

    ``given``: folder of published masks to take instead.
    """
    root = context.run / MASKS
    labels = root / "labels"
    dataset, classes = context.train_set, context.segmenter.classes
    cams = context.run / CAMS

    def one(index: int, sample: Sample) -> dict[str, Tensor]:
        add_image(root, dataset, index, sample.colours)
        if given is not None:
            return {"mask": published_mask(given, sample, classes.num_classes)}
        return {"mask": image_mask(context.segmenter, sample.image, read_maps(cams, sample), rule)}

    map_images(dataset, one, labels, **mine(context), title="masks", suffix=PNG, save=save_mask)
    context.fabric.barrier()
    on_first(
        context.fabric,
        lambda: write_classes(root, classes, mask_pixels(root, list(dataset.names), classes.num_classes)),
    )
    return mask_figures(context, with_masks(dataset, labels))


@torch.no_grad()
def image_mask(model: Segmenter, image: Tensor, cams: ImageMaps, rule: MaskRule) -> Tensor:
    """The mask of one image, uint8 (H, W): background and its tagged classes after random walk and CRF.

    Args:
        model: with an :class:`AffineHead`, whose affinities are trained if there is a walk.
        image: uint8 (3, H, W).
        cams: of the CAM stage.
        rule: how.
    """
    if not len(cams.maps):
        return torch.zeros(image.shape[1:], dtype=torch.uint8)
    scores = first_scores(model, cams, rule)
    if rule.walk is not None:
        scores = walked(model, image, scores, rule.walk)
    return best_classes(image, scores, cams.classes, rule.crf)


def first_scores(model: Segmenter, cams: ImageMaps, rule: MaskRule) -> Tensor:
    """Scores (K+1, H, W) before the random walk: the background, then the K >= 1 maps of an image."""
    maps = cams.maps.float().to(next(model.parameters()).device)
    background_score = (
        background(maps, rule.alpha) if rule.background is None else torch.full_like(maps[0], rule.background)
    )
    return torch.cat([background_score[None], maps])


def best_classes(image: Tensor, scores: Tensor, classes: Tensor, crf: CrfSettings | None) -> Tensor:
    """Of scores (K+1, H, W) the best class of every pixel, uint8 (H, W), after a CRF unless that is None.

    Args:
        image: uint8 (3, H, W).
        scores: of the background and of ``classes``.
        classes: uint8 (K,).
        crf: its parameters.
    """
    if crf is not None:
        unary = unary_from_probabilities(scores[None])
        best = dense_crf(to_colours(image)[None].to(scores.device), unary, crf, labels=True)[0]
    else:
        best = scores.argmax(0)
    return torch.cat([torch.zeros(1, dtype=torch.uint8), classes.cpu()])[best.cpu()]


def walked(model: Segmenter, image: Tensor, scores: Tensor, walk: Walk) -> Tensor:
    """Scores (K+1, H, W) after a random walk over the affinities of the grid of the padded image, as published."""
    size = (image.shape[1], image.shape[2])
    values, pairs = image_affinities(model, image, walk)
    with model.encoder.padding(True):
        height, width = model.encoder.padded_size(*size)
    padded = F.pad(scores, (0, width - size[1], 0, height - size[0]))
    coarse = F.adaptive_avg_pool2d(padded, pairs.size)[None]
    out = random_walk(coarse, values, pairs, beta=walk.beta, log_steps=walk.log_steps)
    full = F.interpolate(out, size=(height, width), mode="bilinear", align_corners=False)
    return full[0, :, : size[0], : size[1]]


def image_affinities(model: Segmenter, image: Tensor, walk: Walk) -> tuple[Tensor, Pairs]:
    """Affinities (1, E) of the cells of an image uint8 (3, H, W), and their pairs."""
    head = require_head(model, "masks", AffineHead)
    x = model.encoder.normalisation(image.to(next(model.parameters()).device))[None]
    with model.encoder.padding(True):
        u = head.affinity_features(model.features(x)).float()
    pairs = cell_pairs(u.shape[-2], u.shape[-1], walk.radius, complete=walk.complete)
    return affinity(u, pairs), pairs


def mask_figures(context: StageContext, masks: SegmentationDataset) -> Figures:
    """Scores of the masks against the true ones of the training images, if these are there."""
    counts = ConfusionMatrix(context.train_set.classes.num_classes)
    for index in fold_images(context.train_set, **mine(context), title="score"):
        counts.update(masks[index].mask, context.train_set[index].mask)
    scores = counts.compute(sum_over(context) if context.fabric.world_size > 1 else None)
    if scores.miou is None:
        return {}
    iou = dict(zip(context.train_set.classes.names, scores.iou, strict=True))
    return {"mask_miou": scores.miou, "mask_accuracy": scores.accuracy, "mask_iou": iou}
