"""The first own stage of ``posthoc``: a basis of the last layer's features, learned without labels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segproto.data.base import Sample
from segproto.data.subset import spread
from segproto.errors import ConfigError
from segproto.files import remove
from segproto.methods.posthoc.config import RotateConfig
from segproto.model.basis_head import BasisBank, BasisHead, FactorBank, RotatedBank
from segproto.model.features import sample_features
from segproto.model.heads import LinearHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.factors import factorise, two_signs
from segproto.prototypes.rotation import (
    Observed,
    TermWeights,
    answered_weights,
    learn_rotation,
    neighbour_differences,
    principal_axes,
    random_rotation,
    rotation_objective,
)
from segproto.training.figures import Figures
from segproto.training.procedures.map_images import load_result, map_images, result_path
from segproto.training.procedures.require import require_head
from segproto.training.progress import current
from segproto.training.stage import Procedure, StageContext

KEYS = {"cells", "differences", "sum", "count", "changes"}  # of an image, on disk
NOISE = 0.2  # standard deviation, of the normalised image: what the metric `stability` adds
CODE_STEPS = 60  # updates that find the strengths of nmf's parts in a cell


def rotate_stage(name: str, config: RotateConfig) -> Procedure:
    """Finds the basis; the network's answers stay as they are."""
    words = "a basis of the last layer's features is found; nothing that the network answers changes"
    return Procedure(name, lambda context: rotate(context, config), words)


class Seen(NamedTuple):
    """What a basis is learned from, of all images in their order.

    Attributes:
        cells: (N, D) features of cells, drawn evenly over the images.
        differences: (M, D) between neighbouring cells.
        mean: (D,) over all cells.
        changes: (K, D) of cells' features where their image gets noise; (0, D) where that is not asked for.
    """

    cells: Tensor
    differences: Tensor
    mean: Tensor
    changes: Tensor


def rotate(context: StageContext, config: RotateConfig) -> Figures:
    """Puts a basis in front of the classifier of ``context.segmenter``, in place."""
    model = context.segmenter
    head = require_head(model, "rotate", LinearHead)
    seen = collect(context, config)
    generator = torch.Generator().manual_seed(context.recipe.train.seed)
    weight, bias = head.weight.detach().cpu(), head.bias.detach().cpu()
    bank = find_basis(weight, bias, seen, config, generator)
    figures: Figures = {"basis": config.basis, "channels": bank.dim, "parts": bank.num_parts}
    if isinstance(bank, RotatedBank):
        observed = observe(weight, bias, seen, bank.mean)
        for name, rotation in (("objective_before", torch.eye(bank.dim)), ("objective", bank.rotation)):
            figures[name] = float(rotation_objective(rotation, observed, terms_of(config)))
    else:
        left = bank.left(seen.cells, bank.strengths(seen.cells))
        figures["residual"] = float(left.detach().square().sum() / seen.cells.square().sum())
    model.head = BasisHead(bank, head.bias).to(head.weight.device)
    return figures


def observe(weight: Tensor, bias: Tensor, seen: Seen, mean: Tensor) -> Observed:
    """What a rotation around ``mean`` is learned from."""
    unrest = seen.changes.T @ seen.changes / max(1, len(seen.changes))
    weights = answered_weights(seen.cells, weight, bias)
    return Observed(seen.cells - mean, weights, seen.differences, torch.cov(seen.cells.T), unrest)


def terms_of(config: RotateConfig) -> TermWeights:
    """The weights of the objective's terms; none for what only a learned basis looks at."""
    return TermWeights(config.coherence, config.evidence, config.steadiness if config.basis == "learned" else 0.0)


def find_basis(weight: Tensor, bias: Tensor, seen: Seen, config: RotateConfig, generator: torch.Generator) -> BasisBank:
    """The bank of the basis that the settings name, on the CPU.

    Args:
        weight: (C, D) of the classifier.
        bias: (C,).
        seen: what it is learned from.
        config: the settings.
        generator: of all draws.
    """
    dim = seen.cells.shape[1]
    if config.basis == "nmf":
        cells = two_signs(seen.cells) if bool((seen.cells < 0).any()) else seen.cells
        return FactorBank(weight, factorise(cells, config.factors or dim, config.steps, generator), CODE_STEPS)
    mean = seen.mean if config.centre else torch.zeros(dim)
    if config.basis == "channels":
        rotation = torch.eye(dim)
    elif config.basis == "random":
        rotation = random_rotation(dim, generator)
    elif config.basis == "pca":
        rotation = principal_axes(seen.cells - mean)
    else:
        with current().bar("rotate", config.steps) as bar:
            rotation = learn_rotation(
                observe(weight, bias, seen, mean),
                terms_of(config),
                steps=config.steps,
                lr=config.lr,
                batch=config.batch,
                generator=generator,
                progress=lambda step, _: bar(step, config.steps),
            )
    return RotatedBank(weight, rotation, mean)


def collect(context: StageContext, config: RotateConfig) -> Seen:
    """Cells of all training images, and differences between neighbours; kept by image, so that a cut-off stage goes on.

    Raises:
        ConfigError: images without two cells side by side.
    """
    model, dataset, fabric = context.segmenter, context.train_set, context.fabric
    per_image, folder = -(-config.cells // len(dataset)), context.out / "cells"
    shaken = set(spread(len(dataset), config.shaken if terms_of(config).steadiness > 0 else 0))

    def look(index: int, sample: Sample) -> dict[str, Tensor]:
        seen = sample_features(model, sample, index, context.train_cache)[0]
        size = (sample.image.shape[-2], sample.image.shape[-1])
        rows, columns = inside(model, size, (seen.shape[-2], seen.shape[-1]))
        features = seen[:, :rows, :columns].float()
        cells, differences = features.flatten(1).T, neighbour_differences(features)
        generator = torch.Generator().manual_seed(context.recipe.train.seed + index)
        drawn = [torch.randperm(len(v), generator=generator)[:per_image].to(v.device) for v in (cells, differences)]
        changes = cells[:0]
        if index in shaken:
            clean = seen if context.train_cache is None else sample_features(model, sample, index)[0]
            moved = noisy_features(model, sample.image, generator)[0] - clean
            changes = moved[:, :rows, :columns].float().flatten(1).T
        return {
            "cells": cells[drawn[0]],
            "differences": differences[drawn[1]],
            "sum": cells.sum(0),
            "count": torch.tensor(len(cells)),
            "changes": changes,
        }

    map_images(dataset, look, folder, rank=fabric.global_rank, world=fabric.world_size, title="features")
    fabric.barrier()
    parts = [load_result(folder, name, KEYS) for name in dataset.names]
    fabric.barrier()
    if fabric.global_rank == 0:
        for name in dataset.names:
            remove(result_path(folder, name))
    names = ("cells", "differences", "changes")
    cells, differences, changes = (torch.cat([part[key] for part in parts]) for key in names)
    if not len(differences):
        raise ConfigError("the training images have one cell each: nothing to find a basis from; use larger images")
    count = torch.stack([part["count"] for part in parts]).sum()
    return Seen(cells, differences, torch.stack([part["sum"] for part in parts]).sum(0) / count, changes)


@torch.no_grad()
def noisy_features(model: Segmenter, image: Tensor, generator: torch.Generator) -> Tensor:
    """Features (1, D, h, w) of an image (3, H, W) to which noise is added once it is normalised."""
    normalised = model.encoder.normalisation(image.to(next(model.parameters()).device))
    noise = torch.randn(normalised.shape, generator=generator).to(normalised.device)
    return model.features((normalised + NOISE * noise)[None])


def inside(model: Segmenter, size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the grid whose cells' centres lie in the image, not in what it was padded with."""
    padded = model.encoder.padded_size(*size)
    rows, columns = (max(1, round(n * s / p)) for n, s, p in zip(grid, size, padded, strict=True))
    return rows, columns
