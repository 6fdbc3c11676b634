"""Suspicious labels: connected regions of masks that clean patches of other images outvote, with what outvotes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.errors import DataError
from segproto.evaluation.review.regions import Region, contradicted
from segproto.evaluation.review.votes import TEMPERATURE, LabelFreeFeatures, Patches, Progress, gather_patches
from segproto.model.features import BackboneFeatures, image_features
from segproto.model.field import Field
from segproto.model.memory_head import cells_of
from segproto.model.patches import cell_box, covered_mask
from segproto.model.provenance import PrototypeSource
from segproto.model.segmenter import Segmenter
from segproto.prototypes.retrieval import vote_shares

FEWEST = 50  # pixels of a region
REASONS = 3  # patches and prototypes that are named


@dataclass(frozen=True)
class Reason:
    """A training patch, or a prototype with its patch, that speaks for the suggested class.

    Attributes:
        share: its part of the vote; of a prototype, how much more it adds to the logit of the suggested class.
        image: the image of the patch; None where a prototype has none.
        box: (y0, x0, y1, x1) of the patch in that image.
        prototype: its number; None for a patch that is no prototype.
    """

    share: float
    image: str | None
    box: tuple[int, int, int, int] | None
    prototype: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data of what is known."""
        known = {key: value for key, value in vars(self).items() if value is not None}
        return {**known, **({} if self.box is None else {"box": list(self.box)})}


@dataclass(frozen=True)
class Suspicion:
    """One entry of the list.

    Attributes:
        image: name in the data set.
        region: where, what the label is and what it should rather be.
        patches: of other images, those with most of the vote for the suggested class.
        prototypes: those of the model that speak most for it against the label; none of a black box.
    """

    image: str
    region: Region
    patches: tuple[Reason, ...] = ()
    prototypes: tuple[Reason, ...] = ()

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain data, classes by ``names``."""
        region = self.region
        reasons = {
            kind: [reason.to_json() for reason in listed]
            for kind, listed in (("patches", self.patches), ("prototypes", self.prototypes))
        }
        return {
            "image": self.image,
            "box": list(region.box),
            "label": names[region.label],
            "suggested": names[region.suggested],
            "score": round(region.score, 6),
            "pixels": region.pixels,
            "runs": region.runs(),
            **reasons,
        }


class LabelReview:
    """Looks for labels of a data set that its other images contradict.

    Evidence at a cell is the vote of its nearest labelled patches, none of its own image and none that is outvoted
    itself (:meth:`segproto.evaluation.review.votes.Patches.trusted`). These votes say how strongly a region is
    contradicted. What the model answers has no say in that: it was trained on the labels in question and repeats their
    errors; it has half a say in where regions are, which spares a person most of those that only the votes get wrong.

    Args:
        model: in eval mode.
        dataset: images and masks at native size.
        cache: cached backbone features of the same images, as :class:`LabelFreeFeatures` takes them.
        progress: called with (images done, images) while patches are gathered.

    Raises:
        DataError: fewer than two images have labels.
    """

    def __init__(
        self,
        model: Segmenter,
        dataset: SegmentationDataset,
        cache: BackboneFeatures | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.dataset, self.cache = model, dataset, cache
        self.features = LabelFreeFeatures(model, dataset, cache)
        gathered = gather_patches(self.features, progress)
        if len(torch.unique(gathered.image)) < 2:
            raise DataError(
                f"fewer than two of the {len(dataset)} images of split {dataset.split} have a labelled cell: labels "
                "are judged by those of other images; check data.root, data.labels and the class values"
            )
        trusted = gathered.trusted()
        self.patches: Patches = trusted if len(torch.unique(trusted.image)) > 1 else gathered

    @torch.no_grad()
    def votes(self, index: int) -> Tensor:
        """(C, h, w) on the grid of an image: shares of the classes among the nearest patches of other images."""
        features = self.features.get(index)
        votes = self.patches.votes(self.patches.look_up(self.patches.embed(features), index))
        grid: Tensor = votes.T.reshape(-1, *features.shape[-2:])
        return grid

    @torch.no_grad()
    def answer(self, index: int) -> Tensor:
        """(C, h, w) in 0..1: what the model says of an image."""
        logits: Tensor = self.model.head(image_features(self.model, self.dataset, index, self.cache))
        return self.model.head.probabilities(logits)[0]

    def regions(self, index: int) -> list[Region]:
        """The contradicted regions of an image, the most contradicted first."""
        mask, grid = self.dataset[index].mask, self.votes(index)
        size = (mask.shape[-2], mask.shape[-1])

        def pixels(maps: Tensor) -> Tensor:
            return Field.over(maps, self.model.encoder, size, size).rows(0, size[0])

        votes, cell = pixels(grid), Field.over(grid, self.model.encoder, size, size).step
        evidence = votes if self.model.head.remembers else (votes + pixels(self.answer(index))) / 2
        return contradicted(evidence, mask, cell=cell, fewest=FEWEST, votes=votes)

    def find(self, count: int | None = None, progress: Progress | None = None) -> list[Suspicion]:
        """The most contradicted regions of all images, without their reasons.

        Args:
            count: so many; None = all.
            progress: called with (images done, images).
        """
        found: list[Suspicion] = []
        for index, name in enumerate(self.dataset.names):
            found += [Suspicion(name, region) for region in self.regions(index)]
            if progress is not None:
                progress(index + 1, len(self.dataset))
        return sorted(found, key=lambda one: -one.region.score)[:count]

    @torch.no_grad()
    def explained(self, one: Suspicion) -> Suspicion:
        """The entry with its reasons: the patches and prototypes to blame."""
        index = list(self.dataset.names).index(one.image)
        features = self.features.get(index)
        inside = self.cells_inside(one.region, index, (features.shape[-2], features.shape[-1]))
        return Suspicion(
            one.image,
            one.region,
            self.blamed_patches(one.region, index, features, inside),
            self.blamed_prototypes(one.region, index),
        )

    def cells_inside(self, region: Region, index: int, grid: tuple[int, int]) -> Tensor:
        """bool (h*w,): the cells of which a region covers most, of a small one those that it covers best."""
        mask = torch.zeros(self.dataset[index].mask.shape, dtype=torch.uint8)
        region.fill(mask, 1)
        padded = covered_mask(self.model, mask) == 1
        share = F.adaptive_avg_pool2d(padded[None, None].float(), grid).flatten()
        return (share > share.max() / 2).to(self.patches.vectors.device)

    def blamed_patches(self, region: Region, index: int, features: Tensor, inside: Tensor) -> tuple[Reason, ...]:
        """The patches of other images that vote most for the suggested class, one an image."""
        patches = self.patches
        found = patches.look_up(patches.embed(features)[inside], index)
        for_it = vote_shares(found.similarity, TEMPERATURE) * patches.frequencies[found.patch, region.suggested]
        total = torch.zeros(len(patches.vectors), device=for_it.device)
        total.index_add_(0, found.patch.flatten(), for_it.flatten() / len(for_it))
        reasons: dict[int, Reason] = {}
        for patch in total.argsort(descending=True, stable=True)[: 20 * REASONS].tolist():
            image = int(patches.image[patch])
            if image not in reasons and total[patch] > 0 and len(reasons) < REASONS:
                rows, columns = patches.grid[patch].tolist()
                cell = [int(patches.cell[patch]) // columns, int(patches.cell[patch]) % columns]
                mask = self.dataset[image].mask
                box = cell_box(self.model, (mask.shape[-2], mask.shape[-1]), cell, [rows, columns])
                reasons[image] = Reason(float(total[patch]), self.dataset.names[image], box)
        return tuple(reasons.values())

    def blamed_prototypes(self, region: Region, index: int) -> tuple[Reason, ...]:
        """The prototypes that add most to the suggested class's logit beyond what they add to the label's."""
        head = self.model.head
        if head.bank is None or head.remembers:
            return ()
        features = image_features(self.model, self.dataset, index, self.cache)
        inside = self.cells_inside(region, index, (features.shape[-2], features.shape[-1]))
        cells = cells_of(head.cell_features(features))[inside]

        def shares(label: int) -> Tensor:
            classes = torch.full((len(cells),), label, device=cells.device)
            return head.contributions(cells, classes).prototypes.mean(0)

        more = shares(region.suggested) - shares(region.label)
        provenance = self.model.provenance
        reasons = []
        for number in more.argsort(descending=True, stable=True)[:REASONS].tolist():
            source: PrototypeSource | None = None if provenance is None else provenance.sources[number]
            image, box = (None, None) if source is None else (source.image, source.box)
            reasons.append(Reason(float(more[number]), image, box, number))
        return tuple(reason for reason in reasons if reason.share > 0)
