"""Initial directions: the principal components of the training features, from their moments."""

from __future__ import annotations

import torch

from segproto.data.base import SegmentationDataset
from segproto.data.subset import Subset, spread
from segproto.methods.primaps.config import InitConfig
from segproto.model.direction_head import DirectionHead
from segproto.model.features import image_features
from segproto.prototypes.streaming_pca import StreamingPca
from segproto.training.agreement import agreement
from segproto.training.figures import Figures
from segproto.training.procedures.map_images import fold_images
from segproto.training.procedures.require import require_head
from segproto.training.procedures.subset import SubsetFeatures
from segproto.training.stage import StageContext


@torch.no_grad()
def initialise(context: StageContext, config: InitConfig) -> Figures:
    """Puts the first principal components of all cells' features in the place of the directions, gains 1.

    More categories than channels also get the first components' opposites.
    """
    model, fabric = context.segmenter, context.fabric
    head = require_head(model, "init", DirectionHead)
    dataset: SegmentationDataset = context.train_set
    cache = context.train_cache
    if config.images is not None and config.images < len(dataset):
        chosen = spread(len(dataset), config.images)
        dataset, cache = Subset(dataset, chosen), None if cache is None else SubsetFeatures(cache, chosen)
    pca = StreamingPca(head.bank.dim, fabric.device)
    for index in fold_images(dataset, rank=fabric.global_rank, world=fabric.world_size, title="init"):
        pca.update(image_features(model, dataset, index, cache)[0].flatten(1).T.float())
    axes = pca.components(min(head.num_classes, head.bank.dim), agreement())
    head.bank.directions.copy_(torch.cat([axes, -axes])[: head.num_classes])
    head.bank.gains.fill_(1)
    model.provenance, model.patches = None, {}
    return {"training_images": len(dataset), "prototypes": head.num_classes}
