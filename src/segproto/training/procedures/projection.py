"""Projection: each prototype becomes its nearest training feature, in one pass over the training set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from segproto.data.base import Sample, SegmentationDataset
from segproto.data.build import list_folder
from segproto.data.subset import Subset, spread
from segproto.errors import DataError
from segproto.model.edit import keep_prototypes
from segproto.model.features import BackboneFeatures, image_features, sample_features
from segproto.model.fingerprint import encoder_hash
from segproto.model.patches import cell_box, covered_mask, draw_patch
from segproto.model.provenance import PrototypeSource, Provenance
from segproto.model.segmenter import Segmenter
from segproto.model.together import READERS, in_order
from segproto.prototypes.bank import Bank
from segproto.prototypes.distinct import RunningDistinct
from segproto.prototypes.membership import any_pixel, nearest_label
from segproto.prototypes.nearest import RunningNearest, unique_rows
from segproto.training.figures import Figures
from segproto.training.first_look import LOOKED_AT
from segproto.training.procedures.config import ProjectConfig
from segproto.training.procedures.map_images import AHEAD, fold_samples
from segproto.training.procedures.require import require_prototypes
from segproto.training.procedures.subset import SubsetFeatures, listed
from segproto.training.stage import Procedure, StageContext


def projection_stage(name: str, config: ProjectConfig) -> Procedure:
    """Porta et al. 2025, section 3.1; the membership rule of Sacha et al. 2023 is an option."""
    words = "each prototype becomes its nearest training patch"
    check = None if config.absent == "drop" else partial(require_cells, name, config)
    return Procedure(name, lambda context: project(context, config), words, check)


def project(context: StageContext, config: ProjectConfig) -> Figures:
    """Projects all prototypes of ``context.segmenter`` in place and records where each came from."""
    model = context.segmenter
    start = require_prototypes(model, "project").num_prototypes
    dataset, cache = searched_images(context, config.images)
    kind = RunningDistinct if config.distinct_images else RunningNearest
    nearest = search(
        context, dataset, cache, config.membership, lambda features: model.head.distances(features)[0], kind
    )
    if config.absent == "drop":
        drop_absent(model, nearest)
    else:
        require_found(model, nearest)
        if model.classes.hole:
            drop_absent(model, nearest)
    gap = nearest.distance.sqrt()
    if cache is not None:
        recompute(model, dataset, nearest)
    bank = require_prototypes(model, "project")  # another one if some were dropped
    with torch.no_grad():
        bank.vectors.copy_(nearest.feature)
    model.provenance, model.patches = trace(model, dataset, nearest)
    if config.deduplicate:
        keep_prototypes(model, unique_rows(bank.vectors.detach()).nonzero()[:, 0])
        bank = require_prototypes(model, "project")
    return {
        "prototypes_start": start,
        "prototypes": bank.num_prototypes,
        "classes_without_prototypes": classes_without_prototypes(model, bank),
        "projection_gap_mean": float(gap.mean()),
        "projection_gap_max": float(gap.max()),
        "images_searched": len(dataset),
        "images_with_prototypes": len(set(nearest.image.tolist())),
    }


def searched_images(context: StageContext, images: Path | None) -> tuple[SegmentationDataset, BackboneFeatures | None]:
    """The training images to search (all, or those of a list file), and their cached features if there are any.

    A relative list is looked for beside the ``classes.yaml``, then in the data folder, then in the working directory.

    Raises:
        DataError: the list cannot be read, or names an image that is not in the training split.
    """
    cache = context.train_cache
    if images is None:
        return context.train_set, cache
    data = context.recipe.data
    beside = data.classes.parent if data.classes is not None and data.classes.suffix else None
    folders = [folder for folder in (beside, list_folder(data), Path()) if folder is not None]
    path = next((folder / images for folder in folders if (folder / images).is_file()), folders[0] / images)
    chosen = listed(context.train_set, path)
    return chosen, None if cache is None else SubsetFeatures(cache, chosen.indices)


@torch.no_grad()
def search(
    context: StageContext,
    dataset: SegmentationDataset,
    cache: BackboneFeatures | None,
    membership: str,
    distances: Callable[[Tensor], Tensor],
    kind: type[RunningNearest | RunningDistinct] = RunningNearest,
) -> RunningNearest:
    """Each prototype's nearest cell of its own class over this process's images, then over all processes.

    Args:
        context: the stage.
        dataset: the images.
        cache: their backbone features, or None.
        membership: which cells belong to a class.
        distances: features (1, S*D, h, w), as the head compares them, to distances (P, h, w).
        kind: whether prototypes of a class may share an image.
    """
    model, fabric = context.segmenter, context.fabric
    bank = model.head.bank
    assert bank is not None
    rule = nearest_label if membership == "nearest_label" else any_pixel
    nearest = kind(bank.class_of, bank.scale_of, bank.num_scales, bank.dim)
    for index, sample in fold_samples(dataset, rank=fabric.global_rank, world=fabric.world_size, title="project"):
        features = model.head.cell_features(sample_features(model, sample, index, cache))
        mask = covered_mask(model, sample.mask.to(features.device))
        allowed = rule(mask, (features.shape[-2], features.shape[-1]), bank.num_classes)
        nearest.update(distances(features), allowed, features[0], index)
    for state in of_others(context, nearest.state_dict()):
        nearest.merge(state)
    return nearest.found()


def recompute(model: Segmenter, dataset: SegmentationDataset, nearest: RunningNearest) -> None:
    """Takes the found cells' features from the images again: those of a cache are rounded to 16 bits."""
    bank = model.head.bank
    assert bank is not None
    for index in sorted(set(nearest.image.tolist()) - {-1}):
        chosen = (nearest.image == index).nonzero()[:, 0]
        row, column = nearest.cell[chosen].T
        cells = model.head.cell_features(image_features(model, dataset, index))[0, :, row, column].T
        nearest.feature[chosen] = bank.own_features(cells)[torch.arange(len(chosen)), chosen]


def of_others(context: StageContext, state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The states of the other processes, in rank order; each must call this."""
    fabric = context.fabric
    if fabric.world_size == 1:
        return []
    stacked = {key: fabric.all_gather(value) for key, value in state.items()}
    others = (rank for rank in range(fabric.world_size) if rank != fabric.global_rank)
    return [{key: value[rank] for key, value in stacked.items()} for rank in others]


def require_cells(stage: str, config: ProjectConfig, context: StageContext) -> None:
    """Refuses, before anything is trained, classes without a single cell in the training images.

    Images are looked at until every class was seen; of more than ``LOOKED_AT`` without, the projection will tell.

    Raises:
        DataError: naming the classes.
    """
    model, dataset = context.segmenter, searched_images(context, config.images)[0]
    rule = nearest_label if config.membership == "nearest_label" else any_pixel
    missing, grids = (
        set(range(model.classes.num_classes)) - model.classes.hole,
        dict[tuple[int, ...], tuple[int, int]](),
    )
    for index in spread(len(dataset), LOOKED_AT):
        mask = covered_mask(model, dataset[index].mask)
        if not missing & set(np.unique(mask.numpy()).tolist()):
            continue
        if mask.shape not in grids:
            features = image_features(model, dataset, index)
            grids[mask.shape] = features.shape[-2], features.shape[-1]
        cells = rule(mask, grids[mask.shape], model.classes.num_classes)
        missing -= set(cells.flatten(1).any(1).nonzero()[:, 0].tolist())
        if not missing:
            return
    if len(dataset) <= LOOKED_AT:
        names = ", ".join(model.classes.names[c] for c in sorted(missing))
        raise DataError(
            f"no cell of class {names} in the {len(dataset)} training images: its prototypes could not be projected, "
            f"nothing was trained; add images with it, or remove or merge it in classes.yaml; or do without its "
            f"prototypes: stages.{stage}.absent=drop"
        )


def require_found(model: Segmenter, nearest: RunningNearest) -> None:
    """Refuses classes without a single cell: their prototypes would become arbitrary patches."""
    missing = [c for c in nearest.missing_classes() if c not in model.classes.hole]
    if missing:
        names = ", ".join(model.classes.names[c] for c in missing)
        raise DataError(
            f"no cell of class {names} in the training images searched: its prototypes cannot be projected; "
            "add images with it, or remove or merge it in classes.yaml; or do without its prototypes: start again from "
            "the joint stage with --start OUT/stages/joint/model train.stages=[project,...] stages.project.absent=drop"
        )


def drop_absent(model: Segmenter, nearest: RunningNearest) -> None:
    """Takes prototypes without a cell out of both, for tables with classes that no image has (COCO-Stuff has 11)."""
    keep = torch.isfinite(nearest.distance).nonzero()[:, 0]
    nearest.load_state_dict({key: value[keep] for key, value in nearest.state_dict().items()})
    keep_prototypes(model, keep)


def classes_without_prototypes(model: Segmenter, bank: Bank) -> list[str]:
    """Names of the classes that no prototype of the bank has."""
    counts = torch.bincount(bank.class_of, minlength=bank.num_classes).tolist()
    return [model.classes.names[c] for c, count in enumerate(counts) if count == 0]


class Found(Protocol):
    """Cells of images, one a row: as :class:`segproto.prototypes.nearest.RunningNearest` has them."""

    @property
    def distance(self) -> Tensor: ...
    @property
    def image(self) -> Tensor: ...
    @property
    def cell(self) -> Tensor: ...
    @property
    def grid(self) -> Tensor: ...


def trace(
    model: Segmenter, dataset: SegmentationDataset, nearest: Found, names: Sequence[str] | None = None
) -> tuple[Provenance, dict[str, bytes]]:
    """The source of each prototype (None where no cell was found) and its patch's picture.

    Each image is read once, and its patches are drawn while the next ones are read.

    Args:
        model: whose cells they are.
        dataset: the images.
        nearest: (P,) cells, image -1 where there is none.
        names: (P,) of the pictures, without folder and suffix; None = the prototype's number.
    """
    images, cells, grids = nearest.image.tolist(), nearest.cell.tolist(), nearest.grid.tolist()
    distances = nearest.distance.tolist()
    sources: list[PrototypeSource | None] = [None] * len(images)
    patches: dict[str, bytes] = {}

    def draw(index: int, sample: Sample) -> dict[int, tuple[PrototypeSource, bytes]]:
        image, drawn = sample.colours, {}
        size = (image.shape[-2], image.shape[-1])
        for p in (p for p, i in enumerate(images) if i == index):
            box = cell_box(model, size, cells[p], grids[p])
            name = f"prototypes/{f'{p:04d}' if names is None else names[p]}.png"
            cell, grid = (cells[p][0], cells[p][1]), (grids[p][0], grids[p][1])
            source = PrototypeSource(dataset.names[index], cell, grid, box, distances[p], name)
            drawn[p] = source, draw_patch(image, box)
        return drawn

    shown = sorted(set(images) - {-1})
    samples = zip(shown, in_order((partial(dataset.__getitem__, i) for i in shown), 1, AHEAD), strict=True)
    for drawn in in_order((partial(draw, *one) for one in samples), READERS, READERS):
        for p, (source, picture) in drawn.items():
            sources[p], patches[str(source.patch)] = source, picture
    whole = dataset.whole if isinstance(dataset, Subset) else dataset
    data_name = f"{type(whole).__name__}, split {whole.split}"
    return Provenance(encoder_hash(model.encoder), data_name, tuple(sources)), patches
