"""What each step makes of a few chosen training images, for the report."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.methods.pixelcontrast.backgrounds import Cut
from segproto.methods.pixelcontrast.masks import (
    MaskRule,
    best_classes,
    first_scores,
    image_affinities,
    image_mask,
    walked,
)
from segproto.methods.pixelcontrast.products import CAMS, SCORES, ImageMaps, read_maps
from segproto.methods.pixelcontrast.tagged import affinity_labels
from segproto.model.segmenter import Segmenter
from segproto.refine.affinity import Pairs
from segproto.training.devices import on_first
from segproto.training.figures import Figures
from segproto.training.procedures.steps import Step, chosen_images, write_index, write_steps
from segproto.training.stage import StageContext

MAPS = Step("maps", "Activation", "How strongly the network sees any of the image's tags.", "heat")
CUT = Step("cut", "Activation, cut", "The strongest tag of each pixel, background below the threshold.", "classes")
SURE = Step(
    "sure", "Sure pixels", "Where the CRF says the same with strong and weak background: affinity's labels.", "classes"
)
LINKS = Step("links", "Affinity", "How alike a cell and its neighbours are: dark lines stop the walk.", "heat")
WALK = Step("walk", "Random walk", "The scores after walking over the affinities.", "classes")
MASK = Step("mask", "Mask", "After the last CRF: what segmenters learn from.", "classes")


def steps_of(rule: MaskRule, *, scored: bool) -> list[Step]:
    """The steps that a rule takes, in order; ``scored``: there are scores after a CRF, from the ``crf`` stage."""
    steps = [MAPS, CUT]
    if scored:
        steps.append(SURE)
    if rule.walk is not None:
        steps += [LINKS, WALK]
    return steps if rule.walk is not None and rule.crf is None else [*steps, MASK]


def keep_steps(context: StageContext, rule: MaskRule, shown: int | list[str]) -> Figures:
    """Leaves the steps of the chosen images in the run, for the report."""
    dataset, run = context.train_set, context.run
    scored = (run / SCORES).is_dir()  # not in a run that begins with trained affinities
    chosen = chosen_images(dataset.names, shown)
    if not chosen:
        return {}

    def keep() -> None:
        threshold = Cut.of(run).shown
        for index in chosen:
            sample, name = dataset[index], dataset.names[index]
            cams = read_maps(run / CAMS, sample)
            sure = affinity_labels(run / SCORES, name) if scored else None
            values = image_steps(context.segmenter, sample.image, cams, sure, rule, threshold)
            write_steps(context.out / "steps", sample, values)
        names = [dataset.names[index] for index in chosen]
        write_index(context.out / "steps", steps_of(rule, scored=scored), names)

    on_first(context.fabric, keep)
    return {"shown": [dataset.names[index] for index in chosen]}


@torch.no_grad()
def image_steps(
    model: Segmenter,
    image: Tensor,
    cams: ImageMaps,
    sure: Tensor | None,
    rule: MaskRule,
    threshold: float,
) -> dict[str, Tensor]:
    """The picture of each step.

    Args:
        model: with a head of maps and affinities.
        image: uint8 (3, H, W).
        cams: of the CAM stage.
        sure: the labels that affinity is learnt from, uint8 (H, W); None without the CRF stage.
        rule: how the masks are made.
        threshold: of the background, for the maps alone.

    Returns:
        (H, W) by key, uint8 or float.
    """
    steps = steps_of(rule, scored=sure is not None)
    size, classes, maps = (image.shape[1], image.shape[2]), cams.classes, cams.maps.float()
    empty = torch.zeros(size)
    if not len(maps):
        return {step.key: empty if step.kind == "heat" else empty.byte() for step in steps}
    cut = torch.cat([torch.full_like(maps[:1], threshold), maps])
    pictures = {MAPS.key: maps.amax(0), CUT.key: best_classes(image, cut, classes, None)}
    if sure is not None:
        pictures[SURE.key] = sure
    if rule.walk is not None:
        values, pairs = image_affinities(model, image, rule.walk)
        grid = alike(values**rule.walk.beta, pairs)
        with model.encoder.padding(True):
            padded = model.encoder.padded_size(*size)
        full = F.interpolate(grid[None, None].cpu(), size=padded, mode="nearest")
        pictures[LINKS.key] = full[0, 0, : size[0], : size[1]]
        out = walked(model, image, first_scores(model, cams, rule), rule.walk)
        pictures[WALK.key] = best_classes(image, out, classes, None)
    pictures[MASK.key] = image_mask(model, image, cams, rule)
    return {step.key: pictures[step.key] for step in steps}


def alike(values: Tensor, pairs: Pairs) -> Tensor:
    """Mean affinity (h, w) of each cell with its partners.

    Args:
        values: (1, E) of ``pairs``.
        pairs: of the grid.
    """
    total, count = (torch.zeros(pairs.size[0] * pairs.size[1], device=values.device) for _ in range(2))
    for ends in pairs.indices():
        rows = ends.to(values.device)
        total.index_add_(0, rows, values[0])
        count.index_add_(0, rows, torch.ones_like(values[0]))
    return (total / count.clamp_min(1)).view(pairs.size)
