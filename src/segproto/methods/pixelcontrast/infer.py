"""From the CAM network to maps of every training image, and to their scores after a CRF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from segproto.data.base import Sample
from segproto.data.tags import BACKGROUND
from segproto.methods.pixelcontrast.backgrounds import BINS, STRONG, WEAK, Cut, alpha_of, cut_of, strongest
from segproto.methods.pixelcontrast.config import CamsConfig, CrfConfig
from segproto.methods.pixelcontrast.products import (
    CAMS,
    NPZ,
    SCORES,
    read_maps,
    remove_damaged,
    save_scores,
)
from segproto.methods.pixelcontrast.published import published_cams, published_scores
from segproto.methods.pixelcontrast.tagged import image_tags
from segproto.metrics.cam_curve import CamCurve, best_point
from segproto.model.cam_head import CamViews, MapHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.labels import IGNORE_INDEX
from segproto.refine.crf import dense_crf, unary_from_probabilities
from segproto.training.devices import on_first
from segproto.training.figures import Figures
from segproto.training.procedures.map_images import fold_images, map_images
from segproto.training.procedures.require import require_head
from segproto.training.stage import StageContext

EPSILON = 1e-5


@torch.no_grad()
def make_cams(context: StageContext, config: CamsConfig, tags_from: Path | None) -> Figures:
    """Maps of the classes of every training image, and their scores over all thresholds where there are masks.

    ``tags_from`` as :func:`~segproto.methods.pixelcontrast.tagged.image_tags` reads it.
    """
    tags = image_tags(tags_from, context.train_set)
    if config.given is None:
        require_head(context.segmenter, "cams", MapHead)

    def one(index: int, sample: Sample) -> dict[str, Tensor]:
        classes = [c for c in tags[index].nonzero().flatten().tolist() if c != BACKGROUND]
        if config.given is not None:
            return published_cams(config.given, sample, classes, tags.shape[1])
        return {
            "classes": torch.tensor(classes, dtype=torch.uint8),
            "maps": image_cams(context.segmenter, sample.image, classes, config),
        }

    folder = context.run / CAMS
    on_first(context.fabric, lambda: remove_damaged(folder))
    map_images(context.train_set, one, folder, **mine(context), title="cams", suffix=NPZ, save=save_scores)
    context.fabric.barrier()
    return {"train_images": len(tags), **cam_figures(context, folder)}


@torch.no_grad()
def image_cams(model: Segmenter, image: Tensor, classes: list[int], config: CamsConfig) -> Tensor:
    """Maps (K, H, W) in 0..1 of an image's classes: the sum over scales and mirror images, by each map's own range.

    At most two full-size copies of the K maps are held at a time, also at scales above 1.

    Args:
        model: with a :class:`MapHead`.
        image: uint8 (3, H, W).
        classes: K of 1..C-1.
        config: scales, which maps.
    """
    size = (image.shape[1], image.shape[2])
    total = torch.zeros(len(classes), *size, device=next(model.parameters()).device)
    if not classes:
        return total
    add_views(total, model, image, classes, config, config.source)
    if config.source == "softmax":
        return total.div_(total.amax((1, 2), keepdim=True) + EPSILON)
    if config.lost == "mean":
        find_lost(total, model, image, classes, config)
    total = total.relu_()
    low, high = total.amin((1, 2), keepdim=True), total.amax((1, 2), keepdim=True)
    return total.sub_(low).sub_(EPSILON).div_(high - low + EPSILON).clamp_min_(0)


def add_views(
    total: Tensor,
    model: Segmenter,
    image: Tensor,
    classes: Sequence[int],
    config: CamsConfig,
    source: Literal["refined", "raw", "softmax"],
) -> None:
    """Adds the maps of an image and of its mirror image, at all scales and upsampled, to ``total``.

    Args:
        total: (K, H, W), changed in place.
        model: with a :class:`MapHead`.
        image: uint8 (3, H, W).
        classes: K of 1..C-1.
        config: scales, and how they are looked at.
        source: which maps, see :class:`CamsConfig`.
    """
    head = require_head(model, "cams", MapHead)
    views = chosen_views(head, config)
    size = (image.shape[1], image.shape[2])
    for scale in config.scales:
        scaled = (max(round(size[0] * scale), 1), max(round(size[1] * scale), 1))
        x = seen_at(model, image.to(total.device), scaled, views.resize)
        with model.encoder.padding(views.pad):
            features = model.features(torch.cat([x, x.flip(3)]))
            padded = model.encoder.padded_size(*scaled)
        if source == "softmax":
            grid = head.maps_of(features, range(head.num_classes), refined=False).float().softmax(1)[:, list(classes)]
        else:
            grid = head.maps_of(features, classes, refined=source == "refined").float()
        sides = zip(grid.shape[2:], padded, scaled, size, strict=True)
        down, across = (resampling(*side, views.enlarge, total.device) for side in sides)
        down = down.expand(len(total), -1, -1)
        for part, columns in zip(grid, (across, across.flip(0)), strict=True):
            total.baddbmm_(down, part @ columns.T)


def chosen_views(head: MapHead, config: CamsConfig) -> CamViews:
    """How images are looked at: as the recipe says, and where it says nothing as the head does."""
    own = head.views
    return CamViews(
        config.resize or own.resize, config.enlarge or own.enlarge, own.pad if config.pad is None else config.pad
    )


def seen_at(model: Segmenter, image: Tensor, size: tuple[int, int], resize: Literal["float", "pil"]) -> Tensor:
    """A uint8 image (3, H, W) resized bicubically and normalised, (1, 3, h, w).

    By ``pil`` as Wang et al. 2020 (SEAM's infer_SEAM.py) and all that follow them: bytes in, rounded bytes out.
    """
    if resize == "pil" and tuple(image.shape[1:]) != size:
        picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).resize(size[::-1], Image.Resampling.BICUBIC)
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).to(image.device)
    x = model.encoder.normalisation(image)[None]
    if tuple(image.shape[1:]) != size:
        x = F.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True)
    return x


def resampling(
    cells: int,
    padded: int,
    seen: int,
    wanted: int,
    enlarge: Literal["half_pixel", "align_corners", "direct"],
    device: torch.device,
) -> Tensor:
    """Weights (wanted, cells) that bring maps from the grid to the image, along rows or along columns.

    All ways are linear and work along rows and columns apart, so the maps at the resized image's size, which may be
    larger than the image's, need not be made.

    Args:
        cells: of the grid, which covers the padded image.
        padded: its side.
        seen: side of the resized image that the model saw.
        wanted: side of the image itself.
        enlarge: see :class:`~segproto.model.cam_head.CamViews`.
        device: of the maps.
    """
    matrix = torch.eye(cells, device=device)
    if enlarge == "direct":
        places = ((torch.arange(wanted, device=device) + 0.5) * (seen * cells / (wanted * padded)) - 0.5).clamp(min=0)
        lower = places.long().clamp(max=cells - 1)
        return torch.lerp(
            matrix[lower], matrix[(lower + 1).clamp(max=cells - 1)], (places - lower)[:, None].clamp(max=1)
        )
    first = F.interpolate(matrix[None], size=padded, mode="linear", align_corners=enlarge == "align_corners")
    return F.interpolate(first[..., :seen], size=wanted, mode="linear", align_corners=False)[0].T


def find_lost(total: Tensor, model: Segmenter, image: Tensor, classes: list[int], config: CamsConfig) -> None:
    """Gives classes without any positive value the raw maps they have, above their mean, in place.

    The tag says that the class is there, that is, that its map has a positive mean; where the network denies it, or
    gives every pixel to another class (the pixel correlation sees the winners only), the map still tells which pixels
    speak for the class the most.

    Args:
        total: (K, H, W) sums over the views.
        model: with a :class:`MapHead`.
        image: uint8 (3, H, W).
        classes: K of 1..C-1.
        config: of the maps.
    """
    lost = [k for k, high in enumerate(total.amax((1, 2)).tolist()) if high <= 0]
    if lost and config.source == "refined":
        raw = torch.zeros_like(total[lost])
        add_views(raw, model, image, [classes[k] for k in lost], config, "raw")
        total[lost] = raw
    for k in lost:
        total[k] -= total[k].mean() * (total[k].amax() <= 0)


def cam_figures(context: StageContext, folder: Path) -> Figures:
    """Where the maps are cut by themselves, and the threshold curve on the training images that have masks."""
    dataset, fabric = context.train_set, context.fabric
    curve, counts = CamCurve(dataset.classes.num_classes), torch.zeros(BINS, dtype=torch.int64)
    for index in fold_images(dataset, **mine(context), title="curve"):
        sample = dataset[index]
        cams = read_maps(folder, sample)
        counts += strongest(cams.maps)
        if bool((sample.mask != IGNORE_INDEX).any()):
            curve.update(cams.maps.float(), cams.classes.long(), sample.mask.long())
    reduce = sum_over(context) if fabric.world_size > 1 else None
    cut = {"otsu_threshold": cut_of(counts if reduce is None else reduce(counts))}
    points = curve.compute(reduce)
    best = best_point(points)
    if best.scores.miou is None:
        return cut
    values = {f"{p.threshold:.2f}": round(p.scores.miou or 0.0, 5) for p in points}
    return {**cut, "cam_miou": best.scores.miou, "cam_threshold": best.threshold, "curve": values}


@torch.no_grad()
def make_scores(context: StageContext, config: CrfConfig) -> Figures:
    """Scores of background and classes after a CRF, with a strong and with a weak background."""
    folder, cams = context.run / SCORES, context.run / CAMS
    settings, cut = config.crf.settings(), Cut.of(context.run).otsu_threshold
    alphas = (alpha_of(config.low, cut, STRONG), alpha_of(config.high, cut, WEAK))

    def one(_index: int, sample: Sample) -> dict[str, Tensor]:
        image_maps = read_maps(cams, sample)
        if config.given_low is not None and config.given_high is not None:
            folders, num_classes = (config.given_low, config.given_high), context.segmenter.classes.num_classes
            return published_scores(*folders, sample, image_maps.classes.tolist(), num_classes)
        maps = image_maps.maps.float().to(context.fabric.device)
        classes = torch.cat([torch.zeros(1, dtype=torch.uint8), image_maps.classes])
        if not len(maps):
            alone = torch.ones(1, *sample.image.shape[1:])
            return {"classes": classes, "low": alone, "high": alone}
        both = torch.stack([torch.cat([background(maps, a)[None], maps]) for a in alphas])
        q = dense_crf(sample.colours[None].to(maps.device), unary_from_probabilities(both), settings)
        return {"classes": classes, "low": q[0], "high": q[1]}

    on_first(context.fabric, lambda: remove_damaged(folder))
    map_images(context.train_set, one, folder, **mine(context), title="crf", suffix=NPZ, save=save_scores)
    context.fabric.barrier()
    return {"train_images": len(context.train_set)}


def background(maps: Tensor, alpha: float) -> Tensor:
    """``(1 - max)^alpha`` of maps (K, H, W)."""
    return (1 - maps.amax(0)).clamp_min(0) ** alpha


def mine(context: StageContext) -> dict[str, int]:
    """Which images are this process's, for :func:`~segproto.training.procedures.map_images.fold_images`."""
    return {"rank": context.fabric.global_rank, "world": context.fabric.world_size}


def sum_over(context: StageContext) -> Callable[[Tensor], Tensor]:
    """The sum of counts over all processes; the result lies on the CPU."""

    def total(value: Tensor) -> Tensor:
        summed = context.fabric.all_reduce(value.to(context.fabric.device), reduce_op="sum")
        assert isinstance(summed, Tensor)
        return summed.cpu()

    return total
