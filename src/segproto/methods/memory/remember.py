"""The one stage of ``memory``: every training image is seen once, and some of its cells are remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segproto.data.base import Sample, SegmentationDataset
from segproto.errors import ConfigError, DataError
from segproto.files import remove
from segproto.methods.memory.config import MemoryModel, RememberConfig
from segproto.model.features import sample_features
from segproto.model.fingerprint import encoder_hash
from segproto.model.memory_head import MemoryBank, MemoryHead, bytes_per_patch, patches_that_fit
from segproto.model.provenance import PrototypeSource, Provenance
from segproto.model.remembering import image_cells, patch_sources, picture_name, sums_by_place
from segproto.prototypes.approximate import ApproximateIndex, require_faiss, search_recall
from segproto.prototypes.coreset import spread_subset, subset_by_errors
from segproto.prototypes.left_out import choose_balance
from segproto.prototypes.retrieval import embed_cells, position_directions
from segproto.training.class_weights import count_pixels
from segproto.training.devices import on_first
from segproto.training.figures import Figures
from segproto.training.procedures.map_images import load_result, map_images, result_path
from segproto.training.progress import current
from segproto.training.stage import Procedure, StageContext

KEYS = {"features", "frequencies", "cell", "grid", "size", "picture", "sum", "count"}  # of an image, on disk


def remember_stage(name: str, config: RememberConfig, model: MemoryModel) -> Procedure:
    """Balazevic et al. 2023, section 3: the memory is filled."""
    words = "training patches are remembered with their labels; nothing is learned"

    def check(context: StageContext) -> None:
        if model.search == "faiss":
            require_faiss()

    return Procedure(name, lambda context: remember(context, config, model), words=words, check=check)


class Remembered(NamedTuple):
    """Cells of all images, in their order.

    Attributes:
        features: (P, D), layers normalised, not yet centred.
        frequencies: (P, C) class frequencies.
        image: (P,) index of the image.
        cell: (P, 2) row and column.
        grid: (P, 2) rows and columns of the image's grid.
        size: (P, 2) the image's height and width.
        mean: (D,) over all labelled cells of all images.
        places: (PLACES * PLACES, D) their means by place.
        counts: (PLACES * PLACES,) how many.
        pictures: of each image, a JPEG's bytes as uint8.
    """

    features: Tensor
    frequencies: Tensor
    image: Tensor
    cell: Tensor
    grid: Tensor
    size: Tensor
    mean: Tensor
    places: Tensor
    counts: Tensor
    pictures: list[Tensor]


def remember(context: StageContext, config: RememberConfig, lookup: MemoryModel) -> Figures:
    """Fills the memory of ``context.segmenter`` in place, with the source of every patch."""
    model, dataset, fabric = context.segmenter, context.train_set, context.fabric
    require_memory(config.patches, model.encoder.num_features, model.classes.num_classes)
    blocks = layer_blocks(model.encoder, config)
    per_image = -(-config.patches // len(dataset))  # an image's part of the memory
    shares = class_shares(context) if config.draw == "balanced" else None

    def look(index: int, sample: Sample) -> dict[str, Tensor]:
        features = sample_features(model, sample, index, context.train_cache)
        seed = context.recipe.train.seed + index
        num_classes = model.classes.num_classes
        cells = image_cells(model, sample, features, num_classes, blocks, per_image, config.labelled, seed, shares)
        if config.remove_position:
            cells |= sums_by_place(model, sample, features, blocks, config.labelled)
        return cells

    folder = context.out / "cells"
    map_images(dataset, look, folder, rank=fabric.global_rank, world=fabric.world_size, title="remember")
    fabric.barrier()
    gathered = gather(dataset, folder)
    require_labels(gathered, context, config, shares)
    centre = blocks > 0 if config.centre is None else config.centre
    mean = gathered.mean if centre else torch.zeros_like(gathered.mean)
    removed = position_directions(gathered.places, gathered.counts, config.remove_position)
    vectors = embed_cells(gathered.features, 0, mean, removed).half()
    bank = MemoryBank(vectors, gathered.frequencies.half(), mean, removed, blocks)
    gathered_count = bank.num_prototypes
    balance = lookup.balance
    if balance == "auto":  # of all patches: those of a coreset are chosen by the same answers
        balance = chosen_balance(bank, gathered.image, lookup, shares, context)
    kept = torch.arange(gathered_count)
    if config.keep is not None and config.keep < gathered_count:
        kept = coreset(bank, gathered.image, config, lookup, balance, context.recipe.train.seed)
        bank = bank.select(kept)
    if lookup.neighbours > bank.num_prototypes:
        raise ConfigError(
            f"model.neighbours = {lookup.neighbours}: the memory has only {bank.num_prototypes} patches; "
            f"use fewer neighbours or more patches (stages.remember.{'patches' if config.keep is None else 'keep'})"
        )
    head = MemoryHead(bank, lookup.neighbours, lookup.temperature, balance, lookup.search)
    model.head = head.to(fabric.device)
    model.provenance, model.patches = sources(context, gathered, kept)
    fabric.barrier()
    if fabric.global_rank == 0:
        forget_files(dataset, folder)
    figures: Figures = {
        "prototypes_start": gathered_count,
        "prototypes": bank.num_prototypes,
        "images_remembered": len(dataset),
        "balance": balance,
    }
    if head.search == "faiss":
        head.index = ApproximateIndex(head.bank.vectors)
        figures["search_recall"] = round(search_recall(head.index, min(head.neighbours, bank.num_prototypes - 1)), 4)
        current().line(f"faiss finds {100 * figures['search_recall']:.1f} % of the {head.neighbours} nearest patches")
    return figures


def coreset(
    bank: MemoryBank, image: Tensor, config: RememberConfig, lookup: MemoryModel, balance: float, seed: int
) -> Tensor:
    """Indices of the patches that stay of a memory."""
    assert config.keep is not None
    if config.coreset == "spread":
        return spread_subset(bank.vectors, bank.class_of, config.keep, seed=seed)
    look = (lookup.neighbours, lookup.temperature, balance)
    return subset_by_errors(bank.vectors, bank.frequencies, image, config.keep, *look, seed=seed)


def chosen_balance(
    bank: MemoryBank, image: Tensor, lookup: MemoryModel, shares: Tensor | None, context: StageContext
) -> float:
    """``model.balance=auto``: by what the memory says of each of its images when that image is left out."""
    y = bank.frequencies.float()
    weights = y.new_ones(len(y))
    if shares is not None:  # patches of rare classes were drawn more often than they are
        weights = (y @ shares.to(y).clamp_min(1e-6).rsqrt()).clamp_min(1e-30).reciprocal()
    seed = context.recipe.train.seed
    balance = choose_balance(
        bank.vectors, bank.frequencies, image, lookup.neighbours, lookup.temperature, weights, seed=seed
    )
    current().line(f"model.balance = {balance:g}: each image answered best by the others")
    return balance


def class_shares(context: StageContext) -> Tensor:
    """(C,) the share of each class in the labelled pixels of the training images; the first process counts for all."""
    counted: list[list[float]] = []

    def count() -> None:
        with current().bar("count the pixels of each class", len(context.train_set)) as bar:
            pixels = count_pixels(context.train_set, bar)[0].double()
        counted.append((pixels / pixels.sum().clamp_min(1)).tolist())

    on_first(context.fabric, count)
    shares = context.fabric.broadcast(counted) if context.fabric.world_size > 1 else counted
    return torch.tensor(shares[0], dtype=torch.float32)


def layer_blocks(encoder: Any, config: RememberConfig) -> int:
    """How many joined layers the features are made of; 0 = they are compared as they are (behind a neck)."""
    settings = encoder.config
    if not config.normalise_layers or settings.neck != "identity":
        return 0
    return len(settings.layers) if settings.layers else 1


def gather(dataset: SegmentationDataset, folder: Path) -> Remembered:
    """The results of all images and processes, in the order of the images."""
    parts = [load_result(folder, name, KEYS) for name in dataset.names]
    lengths = torch.tensor([len(part["features"]) for part in parts])
    image = torch.arange(len(parts)).repeat_interleave(lengths)
    total = torch.stack([part["sum"] for part in parts]).sum(0)
    count = torch.stack([part["count"] for part in parts]).sum()
    dim = total.shape[0]
    places = torch.stack([p["places"] for p in parts]).sum(0) if "places" in parts[0] else torch.zeros(0, dim)
    counts = torch.stack([p["place_counts"] for p in parts]).sum(0) if "places" in parts[0] else torch.zeros(0)
    return Remembered(
        features=torch.cat([part["features"] for part in parts]),
        frequencies=torch.cat([part["frequencies"] for part in parts]),
        image=image,
        cell=torch.cat([part["cell"] for part in parts]),
        grid=torch.stack([part["grid"] for part in parts])[image],
        size=torch.stack([part["size"] for part in parts])[image],
        pictures=[part["picture"] for part in parts],
        mean=(total / count.clamp_min(1)).float(),
        places=(places / counts.clamp_min(1)[:, None]).float(),
        counts=counts,
    )


def sources(context: StageContext, all_cells: Remembered, kept: Tensor) -> tuple[Provenance, dict[str, bytes]]:
    """Where each kept patch came from; one small picture per image, from which patches are cut when they are shown."""
    model, dataset = context.segmenter, context.train_set
    listed: list[PrototypeSource | None] = []
    files: dict[int, str] = {}
    columns = (all_cells.image, all_cells.cell, all_cells.grid, all_cells.size)
    for image, cell, grid, size in zip(*(column[kept].tolist() for column in columns), strict=True):
        file = files.setdefault(image, picture_name(image))
        listed += patch_sources(model, dataset.names[image], size, grid, [cell], file)
    patches = {file: all_cells.pictures[image].numpy().tobytes() for image, file in files.items()}
    data_name = f"{type(dataset).__name__}, split {dataset.split}"
    return Provenance(encoder_hash(model.encoder), data_name, tuple(listed)), patches


def require_memory(patches: int, dim: int, num_classes: int) -> None:
    """Refuses a memory that this machine cannot hold.

    Raises:
        ConfigError: with the number of patches that fits.
    """
    each = bytes_per_patch(dim, num_classes) + 4 * (dim + num_classes)  # float32 while it is gathered
    fitting = patches_that_fit(each)
    if fitting is not None and patches > fitting:
        raise ConfigError(
            f"stages.remember.patches = {patches}: of {dim} numbers each, they need {patches * each / 2**30:.0f} GiB; "
            f"{fitting} fit this machine"
        )


def require_labels(gathered: Remembered, context: StageContext, config: RememberConfig, shares: Tensor | None) -> None:
    """Refuses a memory in which a class has no patch.

    Raises:
        DataError: naming the classes, and whether the images show them.
    """
    names = context.segmenter.classes.names
    absent = (gathered.frequencies.sum(0) == 0).nonzero()[:, 0].tolist()
    if not len(gathered.features):
        raise DataError("no cell of the training images is labelled: nothing to remember; check classes.yaml and void")
    if not absent:
        return
    shares = class_shares(context) if shares is None else shares
    if unseen := [names[c] for c in absent if not shares[c]]:
        raise DataError(
            f"no training image has a labelled pixel of {', '.join(unseen)}: a memory can never answer with it; "
            "add images that show it, or leave the class out of classes.yaml"
        )
    raise DataError(
        f"none of the {len(gathered.features)} patches that were drawn shows {', '.join(names[c] for c in absent)}, "
        f"though training images do; draw more: stages.remember.patches = {config.patches} now, or take cells of which "
        f"little is labelled: stages.remember.labelled = {config.labelled:g} now"
    )


def forget_files(dataset: SegmentationDataset, folder: Path) -> None:
    """Removes what the images' results were kept in: the memory holds all that is needed of them."""
    for name in dataset.names:
        remove(result_path(folder, name))
