"""Training images with other masks than their own: none, saliency, affinity labels, pseudo masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.data.base import Sample, SegmentationDataset
from segproto.data.images import read_indices
from segproto.data.picture import read_image
from segproto.data.pixels import levels
from segproto.data.tags import read_tags, tags_of_masks
from segproto.errors import DataError
from segproto.methods.pixelcontrast.products import NPZ, read_scores
from segproto.prototypes.labels import IGNORE_INDEX
from segproto.refine.affinity import affinity_targets
from segproto.training.procedures.map_images import result_path
from segproto.training.procedures.mask_folder import PNG

LEVELS = 254  # saliency 0..1 as a mask of 0..254; 255 is padding


class OtherMasks(SegmentationDataset):
    """Another data set's images with masks from ``mask(index, sample)``."""

    def __init__(self, whole: SegmentationDataset, mask: Callable[[int, Sample], Tensor]) -> None:
        self.whole, self.mask = whole, mask
        self.classes, self.split, self.names = whole.classes, whole.split, whole.names

    def __getitem__(self, index: int) -> Sample:
        sample = self.whole[index]
        mask = self.mask(index, sample)
        if mask.shape != sample.image.shape[1:]:
            size = "x".join(map(str, sample.image.shape[:0:-1]))
            mask_size = "x".join(map(str, mask.shape[::-1]))
            raise DataError(f"{sample.name}: the image is {size}, what was made of it is {mask_size} (width x height)")
        return sample._replace(mask=mask)

    def path(self, index: int) -> Path | None:
        return self.whole.path(index)

    @property
    def fingerprint(self) -> str:
        return self.whole.fingerprint


def image_tags(source: Path | None, dataset: SegmentationDataset) -> Tensor:
    """(N, C) tags of the training images, from what a recipe's ``tags`` names; None = the classes in their masks.

    Raises:
        DataError: a tag that is no class, an image without a line, or no tagged image at all.
    """
    if source is None:
        tags = tags_of_masks(dataset)
    else:
        tags = read_tags(source, dataset.classes, dataset.names, dataset.former_classes)
    if not bool(tags[:, 1:].any()):
        raise DataError("no training image has a tag; check tags and the classes of the data (class 0 = background)")
    return tags


def without_masks(dataset: SegmentationDataset, saliency: Path | None, *, bicubic: bool = False) -> SegmentationDataset:
    """Images with void masks, so that no stage sees a label by mistake; or with their saliency in the mask.

    ``bicubic``: how saliency is resized with the image; else to the nearest pixel.

    Raises:
        DataError: images without a saliency map, all looked for at once; later, one of another size than its image.
    """
    if saliency is not None:
        missing = [name for name in dataset.names if not (saliency / f"{name}{PNG}").is_file()]
        if missing:
            raise DataError(
                f"{saliency / missing[0]}{PNG}: the saliency map of {missing[0]!r} is missing, {len(missing)} of "
                f"{len(dataset)} are; add them, or leave these images out of the data"
            )

    def mask(_index: int, sample: Sample) -> Tensor:
        if saliency is None:
            return torch.full(sample.image.shape[1:], IGNORE_INDEX, dtype=torch.uint8)
        path = saliency / f"{sample.name}{PNG}"
        return (levels(read_image(path)).mean(0) * (LEVELS / 255)).round().to(torch.uint8)

    unmasked = OtherMasks(dataset, mask)
    unmasked.levels = bicubic and saliency is not None
    return unmasked


def with_masks(dataset: SegmentationDataset, labels: Path) -> SegmentationDataset:
    """Images with the masks a stage wrote."""
    return OtherMasks(dataset, lambda i, s: torch.from_numpy(read_indices(result_path(labels, s.name, PNG))).byte())


def with_affinity_labels(dataset: SegmentationDataset, scores: Path) -> SegmentationDataset:
    """Images with the labels that affinity is learnt from (:func:`segproto.refine.affinity.affinity_targets`)."""

    return OtherMasks(dataset, lambda _index, sample: affinity_labels(scores, sample.name))


def affinity_labels(scores: Path, name: str) -> Tensor:
    """The sure pixels of an image by its scores, uint8 (H, W): class, or 255 where the two backgrounds disagree."""
    classes, (low, high) = affinity_scores(scores, name)
    return global_labels(affinity_targets(low[None], high[None])[0], classes)


def with_positions(dataset: SegmentationDataset, scores: Path) -> SegmentationDataset:
    """Images whose masks are the pixels' places in their scores, ``-1 - (row * W + column)``."""

    def mask(_index: int, sample: Sample) -> Tensor:
        _, values = affinity_scores(scores, sample.name)
        return -1 - torch.arange(values[0, 0].numel()).view(values.shape[2:])

    return OtherMasks(dataset, mask)


def averaged_labels(positions: Tensor, names: Sequence[str], scores: Path, size: tuple[int, int]) -> Tensor:
    """Labels to learn affinity from, of scores averaged over each cell as published; outside the image they are 0.

    Args:
        positions: int64 (B, H, W) of :func:`with_positions` after the augmentation; 255 = outside the image.
        names: of the B images.
        scores: folder of the CRF stage.
        size: (h, w) of the grid that covers ``positions``.

    Returns:
        int64 (B, h, w), 255 = void.
    """
    scored = [affinity_scores(scores, name) for name in names]
    labels = torch.full((len(names), *size), IGNORE_INDEX, device=positions.device)
    for own, index, (classes, values) in zip(labels, positions, scored, strict=True):
        flat = values.to(index.device).flatten(2)
        pixels = flat[:, :, (-1 - index).clamp_min(0)] * (index < 0)
        low, high = F.adaptive_avg_pool2d(pixels, size)
        own.copy_(global_labels(affinity_targets(low[None], high[None])[0], classes))
    return labels


def affinity_scores(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Classes uint8 (K+1,) of an image, and its float scores (2, K+1, H, W): with a strong and a weak background."""
    arrays = read_scores(result_path(folder, name, NPZ))
    return arrays["classes"].byte(), torch.stack([arrays["low"], arrays["high"]]).float()


def global_labels(local: Tensor, classes: Tensor) -> Tensor:
    """Labels (h, w) by place among an image's ``classes`` to those of the data set, uint8; 255 stays void."""
    table = torch.full((256,), IGNORE_INDEX, dtype=torch.uint8, device=local.device)
    table[: len(classes)] = classes.to(local.device)
    return table[local]
