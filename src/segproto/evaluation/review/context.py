"""How much of what a model recognises a class by lies around it: the thing alone, and the place without the thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from segproto.data.base import Sample, SegmentationDataset
from segproto.data.portion import ALONE, Portion
from segproto.model.memory_head import cells_of
from segproto.model.patches import covered_mask
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating
from segproto.prototypes.labels import IGNORE_INDEX
from segproto.prototypes.retrieval import cell_frequencies

AROUND = 3  # images of each class
RECOGNISED = 0.1  # mean probability of a class in its region; below, there is nothing to explain
MOST = 0.9  # of an image: a larger region has no surroundings


def most_of_each(dataset: SegmentationDataset, images: Sequence[int], each: int) -> list[list[int]]:
    """Of each class, up to ``each`` of some images: those in which it covers most, up to ``MOST`` of the image."""
    areas = []
    for index in images:
        mask = dataset[index].mask.flatten()
        counts = torch.bincount(mask[mask != IGNORE_INDEX].long(), minlength=dataset.classes.num_classes)
        share = counts / max(1, mask.numel())
        areas.append(share.masked_fill(share > MOST, 0))
    table = torch.stack(areas)
    order = table.argsort(dim=0, descending=True, stable=True)
    return [[images[i] for i in order[:each, c].tolist() if table[i, c] > 0] for c in range(table.shape[1])]


@torch.no_grad()
def context_shares(
    model: Segmenter,
    dataset: SegmentationDataset,
    chosen: Sequence[Sequence[int]],
    progress: Callable[[int, int], None] | None = None,
    portion: Portion = ALONE,
) -> list[float | None]:
    """Per class the share of its evidence that lies outside its own region.

    An image is shown as it is, with all but the class painted over, and with the class painted over (in the image's
    mean colour). What the mean probability of the class in its region loses by the first is owed to the surroundings,
    by the second to the thing itself; the share is the first over both, each summed over the images and at least 0.

    Args:
        model: in eval mode.
        dataset: images and masks at native size.
        chosen: of each class, the images to look at.
        progress: called with (images done, images) of this process.
        portion: this process's; the shares are those of all.

    Returns:
        0..1; None where the class is recognised in none of its images.
    """
    owed = torch.zeros(len(chosen), 2)
    asked = [(c, index) for c, images in enumerate(chosen) for index in images]
    own = portion.indices(len(asked))
    found: dict[int, Tensor] = {}
    for done, number in enumerate(own, 1):
        class_id, index = asked[number]
        found[number] = owed_to(model, dataset[index], class_id)
        if progress is not None:
            progress(done, len(own))
    for number, value in sorted(entry for part in portion.gather(found) for entry in part.items()):
        owed[asked[number][0]] += value
    sums = owed.sum(1)
    return [float(owed[c, 0] / sums[c]) if sums[c] > 0 else None for c in range(len(chosen))]


def owed_to(model: Segmenter, sample: Sample, class_id: int, logits: Tensor | None = None) -> Tensor:
    """(2,): the probability of a class in its region that is owed to the surroundings, and to the thing itself.

    Args:
        model: in eval mode.
        sample: image and mask.
        class_id: a class of the mask.
        logits: (1, C, h, w) of the image as it is, if they are known.
    """
    device = next(model.parameters()).device
    region = (sample.mask == class_id).to(device)
    image = model.encoder.normalisation(sample.image.to(device))
    mean = image.mean((1, 2), keepdim=True)
    inside = covered_mask(model, region.long())  # 255 where the grid covers no image
    with evaluating(model):
        seen = model.head(model.features(image[None])) if logits is None else logits
        whole = probability(model, seen, inside, class_id)
        if whole < RECOGNISED:
            return torch.zeros(2)
        pictures = (torch.where(region, image, mean), torch.where(region, mean, image))
        alone, without = (
            probability(model, model.head(model.features(picture[None])), inside, class_id) for picture in pictures
        )
    return torch.tensor([max(0.0, whole - alone), max(0.0, whole - without)])


def probability(model: Segmenter, logits: Tensor, inside: Tensor, class_id: int) -> float:
    """Mean probability of a class over the cells of its region, weighted by how much of each it covers.

    Args:
        model: whose logits they are.
        logits: (1, C, h, w).
        inside: int64 over all that the grid covers: 1 in the region, 0 beside it, 255 outside the image.
        class_id: the class.
    """
    logits = logits.float()
    frequencies, known = cell_frequencies(inside, (logits.shape[-2], logits.shape[-1]), 2)
    weight = frequencies[:, 1] * known
    return float(
        (cells_of(model.head.probabilities(logits))[:, class_id] * weight).sum() / weight.sum().clamp_min(1e-9)
    )
