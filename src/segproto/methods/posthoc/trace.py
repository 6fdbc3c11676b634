"""The last stage of ``posthoc``: the training patch at which each part is strongest."""

from __future__ import annotations

import torch
from torch import Tensor

from segproto.methods.posthoc.rotate import inside
from segproto.model.basis_head import BasisHead
from segproto.model.features import image_features
from segproto.model.segmenter import Segmenter
from segproto.prototypes.nearest import RunningNearest
from segproto.training.figures import Figures
from segproto.training.procedures.map_images import fold_images
from segproto.training.procedures.projection import of_others, trace
from segproto.training.procedures.require import require_head
from segproto.training.stage import Procedure, StageContext


def trace_stage(name: str) -> Procedure:
    """Finds the patches; parts that fire at none are not shown."""
    return Procedure(name, trace_parts, "the training patch at which each part is strongest is found")


@torch.no_grad()
def trace_parts(context: StageContext) -> Figures:
    """Records the strongest training cell of each part, whatever its label; the head stays as it is."""
    model = context.segmenter
    head = require_head(model, "trace", BasisHead)
    strongest = search(context, head)
    fires = strongest.distance < 0
    head.hide(fires.nonzero()[:, 0])
    strongest.load_state_dict({key: value[fires] for key, value in strongest.state_dict().items()})
    head.bank.top.copy_(strengths_at(model, context, strongest))
    strongest.distance.zero_()  # a patch is no distance away from the part that is strongest there
    model.provenance, model.patches = trace(model, context.train_set, strongest)
    images = len(set(strongest.image.tolist()))
    return {"prototypes": head.bank.num_prototypes, "silent": len(head.bank.silent), "images_of_patches": images}


def search(context: StageContext, head: BasisHead) -> RunningNearest:
    """The strongest cell of each part over all processes' images: its ``distance`` is the strength, negative."""
    model, dataset, fabric = context.segmenter, context.train_set, context.fabric
    nothing = torch.zeros(head.bank.num_prototypes, dtype=torch.int64, device=head.bias.device)
    strongest = RunningNearest(nothing, nothing, 1, head.bank.dim)
    for index in fold_images(dataset, rank=fabric.global_rank, world=fabric.world_size, title="trace"):
        features = image_features(model, dataset, index, context.train_cache)
        grid, image = (features.shape[-2], features.shape[-1]), dataset[index].image
        rows, columns = inside(model, (image.shape[-2], image.shape[-1]), grid)
        allowed = torch.zeros(1, *grid, dtype=torch.bool, device=features.device)
        allowed[:, :rows, :columns] = True
        strongest.update(-head.activations(features)[0], allowed, features[0], index)
    for state in of_others(context, strongest.state_dict()):
        strongest.merge(state)
    return strongest


def strengths_at(model: Segmenter, context: StageContext, strongest: RunningNearest) -> Tensor:
    """(P,) the strength at each part's cell, from the images again: features of a cache are rounded to 16 bits."""
    strengths = -strongest.distance
    if context.train_cache is None:
        return strengths
    for index in sorted(set(strongest.image.tolist())):
        chosen = (strongest.image == index).nonzero()[:, 0]
        row, column = strongest.cell[chosen].T
        seen = model.head.activations(image_features(model, context.train_set, index))[0]
        strengths[chosen] = seen[chosen, row, column]
    return strengths
