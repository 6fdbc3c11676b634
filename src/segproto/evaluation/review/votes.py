"""What labelled patches of all other images say of an image's cells: evidence that its own labels cannot bend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.model.features import BackboneFeatures, image_features
from segproto.model.memory_head import cells_of
from segproto.model.patches import covered_mask
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating
from segproto.prototypes.numerics import exact_float32
from segproto.prototypes.retrieval import (
    Neighbours,
    cell_frequencies,
    choose_cells,
    nearest_patches,
    normalise_layers,
    vote_shares,
)

PATCHES = 12_000  # of all images together
FEWEST = 8  # of an image, however many images there are
DIRECTIONS = 128  # principal directions of the patches; more cost time and change little
NEIGHBOURS, TEMPERATURE = 30, 0.07  # as of a memory head
LABELLED = 0.5  # share of a cell's pixels, for it to be evidence
TRUSTED = 0.5  # of what patches of a class usually get for their label; those with less are no evidence

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Patches:
    """Labelled cells of many images, to be compared with cells of others.

    Attributes:
        vectors: (M, D) unit vectors, float16.
        frequencies: (M, C) class frequencies of each cell's pixels.
        image: (M,) int64, the image each is of.
        cell: (M,) int64, its cell in row-major order.
        grid: (M, 2) int64, rows and columns of its image's grid.
        mean: (F,) that is subtracted from features first.
        directions: (F, D) orthonormal columns: the principal directions of the patches, in which all are compared.
        blocks: scales (or joined layers), which are normalised apart.
    """

    vectors: Tensor
    frequencies: Tensor
    image: Tensor
    cell: Tensor
    grid: Tensor
    mean: Tensor
    directions: Tensor
    blocks: int

    def embed(self, features: Tensor) -> Tensor:
        """Features (1, F, h, w) to unit vectors (h*w, D)."""
        cells = normalise_layers(cells_of(features), self.blocks) - self.mean
        with exact_float32(cells.device):
            return F.normalize(cells @ self.directions, dim=1)

    def look_up(self, cells: Tensor, image: int) -> Neighbours:
        """The nearest patches (of other images) of an image's cells.

        Args:
            cells: (N, D) unit vectors.
            image: the index of theirs; -1 = of none of the images.
        """
        return self.nearest(cells, torch.full((len(cells),), image, device=cells.device))

    def nearest(self, cells: Tensor, image: Tensor) -> Neighbours:
        """The same of cells of several images, ``image`` (N,) int64; of few patches no more than all have of others."""
        others = len(self.image) - int(torch.bincount(self.image).max())
        return nearest_patches(cells, self.vectors, min(NEIGHBOURS, others), (image, self.image))

    def votes(self, found: Neighbours) -> Tensor:
        """(N, C) shares of the classes among the neighbours (Balazevic et al. 2023, section 3); rows sum to 1."""
        shares = vote_shares(found.similarity, TEMPERATURE)
        return (self.frequencies[found.patch] * shares[..., None]).sum(1)

    def keep(self, which: Tensor) -> Patches:
        """Some of the patches; ``which`` is bool (M,)."""
        own = ("vectors", "frequencies", "image", "cell", "grid")
        return replace(self, **{name: getattr(self, name)[which] for name in own})

    def trusted(self) -> Patches:
        """Without the patches that those of other images outvote (Wilson 1972, edited nearest neighbours).

        A patch stays if its neighbours give its class at least ``TRUSTED`` of what they give patches of that class on
        average, so that rare and difficult classes keep theirs.
        """
        own = self.frequencies.max(1).indices
        votes = self.votes(self.nearest(self.vectors.float(), self.image))
        support = votes.gather(1, own[:, None])[:, 0]
        count = torch.bincount(own, minlength=self.frequencies.shape[1])
        usual = torch.zeros(len(count), device=own.device).index_add_(0, own, support) / count.clamp_min(1)
        return self.keep(support >= TRUSTED * usual[own])


class LabelFreeFeatures:
    """Features that the labels in question had least to do with: those of a frozen backbone, else those of the model.

    A neck was trained on these labels, and where it is large it has learned their errors by heart.

    Args:
        model: in eval mode.
        dataset: its images, at native size.
        cache: cached backbone features of the same images; None = they are computed.

    Attributes:
        blocks: joined layers, which are normalised apart.
    """

    def __init__(self, model: Segmenter, dataset: SegmentationDataset, cache: BackboneFeatures | None = None) -> None:
        self.model, self.dataset, self.cache = model, dataset, cache
        encoder = model.encoder
        self.frozen = encoder.backbone_frozen and not encoder.decoder and not encoder.config.msc
        layers = encoder.config.layers
        self.blocks = (len(layers) if layers else 1) if self.frozen else model.head.blocks()

    @torch.no_grad()
    def get(self, index: int) -> Tensor:
        """(1, F, h, w), float32, of an image."""
        with evaluating(self.model):
            if not self.frozen:
                return image_features(self.model, self.dataset, index).float()
            device = next(self.model.parameters()).device
            if self.cache is not None:
                return self.cache.get(index, False)[None].to(device).float()
            image = self.model.encoder.normalisation(self.dataset[index].image.to(device))
            return self.model.encoder.backbone_features(image[None]).float()


@torch.no_grad()
def gather_patches(features: LabelFreeFeatures, progress: Progress | None = None) -> Patches:
    """Labelled cells spread over all images of a data set; rare classes keep theirs.

    Args:
        features: of these images.
        progress: called with (images done, images).
    """
    model, dataset = features.model, features.dataset
    each = max(FEWEST, PATCHES // max(1, len(dataset)))
    blocks, classes = features.blocks, dataset.classes.num_classes
    parts: list[tuple[Tensor, ...]] = []
    for index in range(len(dataset)):
        one = features.get(index)
        grid = (one.shape[-2], one.shape[-1])
        mask = covered_mask(model, dataset[index].mask.to(one.device))
        frequencies, known = cell_frequencies(mask, grid, classes)
        chosen = choose_cells(frequencies, known >= LABELLED, each, torch.Generator().manual_seed(index))
        where = torch.tensor(grid, device=one.device).expand(len(chosen), 2)
        cells = normalise_layers(cells_of(one)[chosen], blocks)
        parts.append((cells.half(), frequencies[chosen], torch.full_like(chosen, index), chosen, where))
        if progress is not None:
            progress(index + 1, len(dataset))
    cells, frequencies, image, chosen, where = (torch.cat(values) for values in zip(*parts, strict=True))
    mean = cells.float().mean(0) if len(cells) else cells.new_zeros(cells.shape[1]).float()
    centred = cells.float() - mean
    with exact_float32(cells.device):
        directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -DIRECTIONS:]
        vectors = F.normalize(centred @ directions, dim=1).half()
    return Patches(vectors, frequencies, image, chosen, where, mean, directions, blocks)
