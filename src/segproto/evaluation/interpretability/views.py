"""What the metrics see of one image: activations, groups, logits and labels on the grid, parts at the pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.data.base import Sample, SegmentationDataset
from segproto.errors import DataError
from segproto.metrics.cells import Size, cell_pixels, class_pixels, pixel_cells
from segproto.metrics.keypoints import Keypoints, part_keypoints
from segproto.model.features import BackboneFeatures, image_features
from segproto.model.segmenter import Segmenter
from segproto.prototypes.labels import IGNORE_INDEX, resize_labels

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class View:
    """One image as a model sees it.

    Attributes:
        model: in eval mode.
        sample: image and mask.
        index: of the image in its data set.
        features: (1, F, h, w), squashed.
        part_map: int64 (H, W), or None.
        shared: what several metrics need of this image, see :meth:`once`.
    """

    model: Segmenter
    sample: Sample
    index: int
    features: Tensor
    part_map: Tensor | None = None
    shared: dict[str, Any] = field(default_factory=dict, repr=False)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` gives, made by the first metric that asks for it under this name."""
        if name not in self.shared:
            self.shared[name] = make()
        value: T = self.shared[name]
        return value

    @property
    def size(self) -> Size:
        """(H, W)."""
        return self.sample.mask.shape[-2], self.sample.mask.shape[-1]

    @property
    def grid(self) -> Size:
        """(h, w)."""
        return self.features.shape[-2], self.features.shape[-1]

    @property
    def area(self) -> Size:
        """Pixels the grid covers."""
        return self.model.encoder.padded_size(*self.size)

    @cached_property
    def cell_features(self) -> Tensor:
        """(1, F, h, w) as the head's ``contributions`` take them."""
        return self.model.head.cell_features(self.features)

    @cached_property
    def activations(self) -> Tensor:
        """(P, h, w), on the CPU."""
        return self.model.head.activations(self.cell_features)[0].cpu()

    @cached_property
    def groups(self) -> Tensor | None:
        """(K*G, h, w) group activations, on the CPU; None without groups."""
        grouping = self.model.head.grouping
        if grouping is None:
            return None
        groups: Tensor = grouping(self.activations[None].to(self.features.device))[0].cpu()
        return groups

    @cached_property
    def logits(self) -> Tensor:
        """(C, h, w) on the grid, float32."""
        logits: Tensor = self.model.head(self.features)[0].float()
        return logits

    @cached_property
    def cells(self) -> Tensor:
        """int64 (H, W): the cell of each pixel."""
        return pixel_cells(self.size, self.grid, self.area)

    @cached_property
    def weights(self) -> Tensor:
        """int64 (C, h*w): pixels of each class in each cell."""
        return class_pixels(self.sample.mask, self.cells, self.model.head.num_classes, self.grid[0] * self.grid[1])

    @cached_property
    def pixels(self) -> Tensor:
        """int64 (h*w,): image pixels in each cell."""
        return cell_pixels(self.size, self.grid, self.area)

    @cached_property
    def present(self) -> Tensor:
        """bool (C,): classes with a pixel."""
        return self.weights.sum(1) > 0

    @cached_property
    def labels(self) -> Tensor:
        """int64 (h, w): the label under each cell, 255 = void."""
        (h, w), (ph, pw) = self.size, self.area
        padded = F.pad(self.sample.mask.long(), (0, pw - w, 0, ph - h), value=IGNORE_INDEX)
        return resize_labels(padded[None], self.grid)[0]

    def keypoints(self, background_centroid: bool) -> Keypoints | None:
        """Key points of the parts; None without a part map."""
        if self.part_map is None:
            return None
        return part_keypoints(self.sample.mask, self.part_map, background_centroid=background_centroid)

    def maps(self, values: Tensor, mode: str) -> tuple[Tensor, Tensor]:
        """Maps (U, h, w) as (U, Y, X) with the pixels of each place (Y*X,): the cells, or bicubically at the pixels."""
        if mode == "grid":
            return values, self.pixels
        (height, width), area = self.size, self.area
        full = F.interpolate(values[None], size=area, mode="bicubic", align_corners=False)[0, :, :height, :width]
        return full, torch.ones(height * width, dtype=torch.int64)


def look(
    model: Segmenter, dataset: SegmentationDataset, index: int, cache: BackboneFeatures | None, *, parts: bool
) -> View:
    """The view of an image, its features from the cache if there is one.

    Raises:
        DataError: naming the image: a mask or part map that does not fit.
    """
    sample = dataset[index]
    part_map = dataset.parts(index) if parts else None
    if part_map is not None and part_map.shape != sample.mask.shape:
        (ph, pw), (h, w) = part_map.shape, sample.mask.shape
        raise DataError(f"{sample.name}: the part map is {pw}x{ph} pixels (width x height), the image {w}x{h}")
    return View(model, sample, index, image_features(model, dataset, index, cache), part_map)


def encode(model: Segmenter, images: Tensor) -> Tensor:
    """Features of normalised images (B, 3, H, W), on the model's device."""
    return model.features(images.to(next(model.parameters()).device))


def generator(seed: int, *stream: int) -> torch.Generator:
    """Random numbers that depend on the seed and the image only, not on the process that draws them."""
    state = np.random.SeedSequence([seed, *stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
