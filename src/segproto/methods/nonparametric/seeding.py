"""Prototypes that start on training features."""

from __future__ import annotations

import torch

from segproto.errors import ConfigError
from segproto.methods.nonparametric.build import begin_nearest
from segproto.methods.nonparametric.config import NonparametricModel, SeedConfig
from segproto.model.features import sample_features
from segproto.model.heads import LinearHead, NearestHead
from segproto.model.patches import covered_mask
from segproto.model.segmenter import Segmenter
from segproto.prototypes.labels import IGNORE_INDEX, resize_labels
from segproto.prototypes.seeding import classifier_prototypes, first_pixels, kmeans_plus_plus
from segproto.prototypes.sinkhorn import pixel_classes
from segproto.training.agreement import agreement
from segproto.training.devices import seed_all
from segproto.training.figures import Figures
from segproto.training.procedures.map_images import fold_samples
from segproto.training.procedures.projection import searched_images
from segproto.training.procedures.require import require_head
from segproto.training.stage import StageContext


@torch.no_grad()
def seed(context: StageContext, config: SeedConfig, model_config: NonparametricModel) -> Figures:
    """Gives the model prototypes that start where ``config.start`` says, the same on every process."""
    model, train = context.segmenter, context.recipe.train
    seed_all(train.seed, "seed", "begin")  # random prototypes must not differ between processes
    if config.start == "classifier":
        return seed_from_classifier(model, model_config)
    begin_nearest(model, model_config)
    return seed_from_features(context, config)


def seed_from_classifier(model: Segmenter, config: NonparametricModel) -> Figures:
    """Places the prototypes of a class around its direction in the linear head, which they replace.

    Raises:
        ConfigError: the model has no linear head.
    """
    if not isinstance(model.head, LinearHead):
        raise ConfigError(
            f"stages.seed.start = classifier: the model has a {model.head.kind} head; set stages.linear.steps, or "
            "train.start to a black box"
        )
    weight = model.head.weight.detach()
    if config.feature_norm == "layernorm":  # which takes the mean over channels out of every feature
        weight = weight - weight.mean(1, keepdim=True)
    begin_nearest(model, config)
    bank = require_head(model, "seed", NearestHead).bank
    bank.vectors.copy_(classifier_prototypes(weight, bank.per_class))
    return {"prototypes": bank.num_prototypes, "seeded": bank.num_prototypes}


def seed_from_features(context: StageContext, config: SeedConfig) -> Figures:
    """Places prototypes by k-means++ among the first cells of each class; absent classes keep random ones."""
    model, fabric = context.segmenter, context.fabric
    head = require_head(model, "seed", NearestHead)
    bank, classes = head.bank, head.num_classes
    dataset, cache = searched_images(context, config.images)
    device = bank.vectors.device
    have = torch.zeros(classes + 1, dtype=torch.int64, device=device)
    have[classes] = config.pixels  # of void, enough
    cells, labels = [bank.vectors.new_zeros(0, bank.dim)], [have.new_zeros(0)]
    for index, sample in fold_samples(dataset, rank=fabric.global_rank, world=fabric.world_size, title="seed"):
        features = sample_features(model, sample, index, cache)
        mask = covered_mask(model, sample.mask.to(device))
        grid = resize_labels(mask[None], (features.shape[-2], features.shape[-1])).flatten()
        class_of = pixel_classes(grid, classes, IGNORE_INDEX)
        keep = (have[class_of] < config.pixels) & first_pixels(grid, classes, config.pixels)
        cells.append(head.embed(features)[keep])
        labels.append(grid[keep])
        have[:classes] += torch.bincount(class_of[keep], minlength=classes + 1)[:classes]
        if bool((have >= config.pixels).all()):
            break
    generator = torch.Generator(device).manual_seed(context.recipe.train.seed + fabric.global_rank)
    seeds = kmeans_plus_plus(torch.cat(cells), torch.cat(labels), bank.vectors, generator=generator, reduce=agreement())
    bank.vectors.copy_(seeds.prototypes)
    return {"prototypes": bank.num_prototypes, "seeded": int(seeds.placed.sum())}
