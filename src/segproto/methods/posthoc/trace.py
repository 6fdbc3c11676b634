"""The last stage of ``posthoc``: the training patches at which each part is strongest, and the class it speaks for."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.methods.posthoc.config import TraceConfig
from segproto.methods.posthoc.rotate import inside
from segproto.model.basis_head import BasisHead
from segproto.model.features import image_features, sample_features
from segproto.model.provenance import PrototypeSource
from segproto.model.segmenter import Segmenter
from segproto.prototypes.nearest import RunningStrongest
from segproto.prototypes.spoken import most_of_all, spoken_for
from segproto.training.figures import Figures
from segproto.training.procedures.map_images import fold_samples
from segproto.training.procedures.projection import of_others, trace
from segproto.training.procedures.require import require_head
from segproto.training.stage import Procedure, StageContext

SMALL = 1e-12


def trace_stage(name: str, config: TraceConfig) -> Procedure:
    """Finds the patches; parts that fire at none are not shown."""
    words = "the training patches at which each part is strongest are found, and the class that it speaks for"
    return Procedure(name, lambda context: trace_parts(context, config), words)


class Seen(NamedTuple):
    """What parts did in the training images.

    Attributes:
        strongest: their strongest cells.
        strengths: (C, P) sum of each part's strengths over the cells that the network gives to each class.
        cells: (C,) number of these.
    """

    strongest: RunningStrongest
    strengths: Tensor
    cells: Tensor


class Cells(NamedTuple):
    """One cell of an image a row, as :func:`segproto.training.procedures.projection.trace` reads them."""

    distance: Tensor
    image: Tensor
    cell: Tensor
    grid: Tensor


@torch.no_grad()
def trace_parts(context: StageContext, config: TraceConfig) -> Figures:
    """Records the strongest training cells of each part, whatever their label; the network's answers stay as they are.

    The largest strengths come from the images again where features are cached: those of a cache are rounded to 16 bits.
    """
    model = context.segmenter
    head = require_head(model, "trace", BasisHead)
    seen = search(context, head, config.patches)
    shares = head.unit_weights()
    said = (seen.strengths * shares.abs()).sum(0)
    shown = most_of_all(said, config.carry) & (seen.strongest.strength[:, 0] > 0)
    places = shown.nonzero()[:, 0]
    head.show(places, spoken_for(seen.strengths, seen.cells, shares)[places])
    image, cell, grid, strength = (
        value[places] for value in (seen.strongest.image, seen.strongest.cell, seen.strongest.grid,
                                    seen.strongest.strength)
    )  # fmt: skip
    if context.train_cache is not None:
        strength[:, 0] = strengths_at(model, context, image[:, 0], cell[:, 0])
    head.bank.top.copy_(strength[:, 0])
    apart = (strength[:, :1] - strength).clamp_min(0).square()
    found = Cells(apart.flatten(), image.flatten(), cell.flatten(0, 1), grid.flatten(0, 1))
    names = [f"{p:04d}" + (f"-{k + 1}" if k else "") for p in range(len(image)) for k in range(config.patches)]
    provenance, model.patches = trace(model, context.train_set, found, names)
    model.provenance = replace(provenance, sources=gathered(provenance.sources, config.patches))
    return {
        "prototypes": head.bank.num_prototypes,
        "silent": len(head.bank.silent),
        "carried": min(1.0, float(said[places].sum() / said.sum().clamp_min(SMALL))),
        "images_of_patches": len(set(image.flatten().tolist()) - {-1}),
    }


def gathered(sources: tuple[PrototypeSource | None, ...], count: int) -> tuple[PrototypeSource | None, ...]:
    """One source for every ``count``: the first, with the others as further patches."""
    out: list[PrototypeSource | None] = []
    for start in range(0, len(sources), count):
        first, *others = sources[start : start + count]
        out.append(None if first is None else replace(first, also=tuple(s for s in others if s is not None)))
    return tuple(out)


def search(context: StageContext, head: BasisHead, count: int) -> Seen:
    """What each part does in all processes' images."""
    model, dataset, fabric = context.segmenter, context.train_set, context.fabric
    parts, classes, device = head.bank.num_prototypes, head.num_classes, head.bias.device
    strongest = RunningStrongest(parts, count, device)
    strengths = torch.zeros(classes, parts, dtype=torch.float64, device=device)
    cells = torch.zeros(classes, dtype=torch.int64, device=device)
    for index, sample in fold_samples(dataset, rank=fabric.global_rank, world=fabric.world_size, title="trace"):
        features = sample_features(model, sample, index, context.train_cache)
        grid, size = (features.shape[-2], features.shape[-1]), (sample.image.shape[-2], sample.image.shape[-1])
        rows, columns = inside(model, size, grid)
        features = features[..., :rows, :columns]
        fired = head.activations(features)[0]
        strongest.update(fired, grid, index)
        answered = F.one_hot(head(features)[0].flatten(1).argmax(0), classes)
        strengths += answered.T.double() @ fired.flatten(1).T.double()
        cells += answered.sum(0)
    for state in of_others(context, {**strongest.state_dict(), "strengths": strengths, "cells": cells}):
        strongest.merge(state)
        strengths, cells = strengths + state["strengths"], cells + state["cells"]
    return Seen(strongest, strengths.to(head.bias.dtype), cells)


def strengths_at(model: Segmenter, context: StageContext, images: Tensor, cells: Tensor) -> Tensor:
    """(P,) strengths of the parts at a cell each, (P, 2), of images (P,): from the images again."""
    strengths = torch.zeros(len(images), device=images.device)
    for index in sorted(set(images.tolist())):
        chosen = (images == index).nonzero()[:, 0]
        row, column = cells[chosen].T
        seen = model.head.activations(image_features(model, context.train_set, index))[0]
        strengths[chosen] = seen[chosen, row, column]
    return strengths
