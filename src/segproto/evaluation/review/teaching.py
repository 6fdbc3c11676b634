"""What to label next: images that would teach most about a whole folder, by what is uncertain and unlike the known.

Greedy maximum of a weighted coverage (facility location), which is at least 63 % of the best that as many images can
cover (Nemhauser, Wolsey, Fisher 1978, "An analysis of approximations for maximizing submodular set functions",
https://doi.org/10.1007/BF01588971). An outlier covers nothing but itself and an image like a chosen one covers nothing
new, so that the chosen images are typical and differ among themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.data.subset import spread
from segproto.encoders.base import Encoder
from segproto.errors import DataError, plain
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating
from segproto.prototypes.numerics import exact_float32

SIDE = 4  # an image is looked at as so many by so many parts
TARGETS = 8192  # parts of all images that are to be covered
CHUNK = 256  # images at once
KNOWN_IMAGES = 2000  # labelled images that are looked at

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Choice:
    """One image to label.

    Attributes:
        index: of the image.
        gain: how much of what is uncertain and unlike the known the image covers that those before it do not, 0..1.
        unlike: how unlike the labelled images its parts are (1 - the largest cosine, at most 1); 1 without any.
        uncertainty: mean over its parts, 0..1; 1 where none was given.
    """

    index: int
    gain: float
    unlike: float
    uncertainty: float

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain data, the image by ``names``."""
        figures = {key: round(getattr(self, key), 6) for key in ("gain", "unlike", "uncertainty")}
        return {"image": names[self.index], **figures}


def entropy_of(probabilities: Tensor, dim: int = 0) -> Tensor:
    """Entropy of class probabilities over that of equal ones: 0 = certain, 1 = nothing is known."""
    classes = probabilities.shape[dim]
    entropy: Tensor = -torch.special.xlogy(probabilities, probabilities).sum(dim)
    return (entropy / math.log(max(classes, 2))).clamp(0, 1)


def rank_next(
    parts: Tensor, count: int, *, uncertainty: Tensor | None = None, known: Tensor | None = None
) -> list[Choice]:
    """Images to label, the one that teaches most first.

    Every part t of every image has a weight u_t, its uncertainty, and is covered by the labelled images as far as it is
    like the most similar part of theirs: c_t = max(0, cosine). Labelling image i covers it by the most similar of its
    parts. The image chosen next has the largest mean over t of ``u_t max(0, cover(i, t) - c_t)``; then c_t grows.

    Args:
        parts: (N, K, D) features of K parts of N images without labels, of any length; 1 part = the image as a whole.
        count: how many to choose, at most N.
        uncertainty: (N, K) in 0..1, as of :func:`entropy_of`; None = all the same, as without a model.
        known: (M, D) features of parts of labelled images; None = there are none.

    Returns:
        ``count`` choices, none twice.
    """
    images, each = parts.shape[:2]
    flat = parts.reshape(images * each, -1).float()
    centre = flat.mean(0) if known is None else torch.cat([flat, known.float()]).mean(0)
    cells = F.normalize(flat - centre, dim=1)
    weight = torch.ones(len(flat), device=flat.device) if uncertainty is None else uncertainty.reshape(-1).float()
    covered = torch.zeros(len(flat), device=flat.device)
    with exact_float32(cells.device):
        if known is not None and len(known):
            seen = F.normalize(known.float() - centre, dim=1)
            covered = torch.cat([(part @ seen.T).amax(1) for part in torch.split(cells, CHUNK * each)]).clamp(0, 1)
        unlike, unsure = (1 - covered).view(images, each).mean(1), weight.view(images, each).mean(1)
        targets = torch.tensor(spread(len(flat), TARGETS), device=flat.device)
        goal, left, weight = cells[targets], covered[targets], weight[targets]
        cover = torch.cat(
            [(goal @ part.T).view(len(goal), -1, each).amax(2).T for part in torch.split(cells, CHUNK * each)]
        ).clamp_min(0)
    found = []
    free = torch.ones(images, dtype=torch.bool, device=flat.device)
    for _ in range(min(count, images)):
        gains = torch.cat([((part - left).clamp_min(0) * weight).mean(1) for part in torch.split(cover, CHUNK)])
        index = int(gains.masked_fill(~free, -1).argmax())
        found.append(Choice(index, float(gains[index]), float(unlike[index]), float(unsure[index])))
        free[index] = False
        left = torch.maximum(left, cover[index])
    return found


@dataclass(frozen=True)
class Looked:
    """What was seen in some images, each as ``SIDE`` by ``SIDE`` parts; all on the CPU.

    Attributes:
        indices: the N images that could be read.
        parts: (N, K, D) mean features of the backbone.
        uncertainty: (N, K) mean entropy of the model's answer (:func:`entropy_of`); None without a model.
        broken: why others could not be read, by name.
    """

    indices: list[int]
    parts: Tensor
    uncertainty: Tensor | None
    broken: dict[str, str]


def look(
    model: Segmenter | Encoder, dataset: SegmentationDataset, indices: Sequence[int], progress: Progress | None = None
) -> Looked:
    """Looks at images, with a model or with an encoder alone.

    Raises:
        DataError: none of them can be read.
    """
    encoder, head = (model.encoder, model.head) if isinstance(model, Segmenter) else (model, None)
    readable, found, unsure, broken = [], [], [], {}
    with evaluating(model):
        for done, index in enumerate(indices, 1):
            try:
                image, raw = seen(encoder, dataset, index)
            except DataError as error:
                broken[dataset.names[index]] = plain(error)
                continue
            readable.append(index)
            found.append(pooled(raw))
            if head is not None:
                whole = encoder.decoder or encoder.config.msc  # the neck reads more than was kept
                features = encoder(image) if whole else encoder.from_backbone(raw)
                unsure.append(pooled(entropy_of(head.probabilities(head(features)), 1)[:, None])[:, 0])
            if progress is not None:
                progress(done, len(indices))
    if not found:
        raise DataError(f"none of {len(indices)} images can be read: {next(iter(broken.values()), 'there are none')}")
    return Looked(readable, torch.stack(found), torch.stack(unsure) if head is not None else None, broken)


def seen(encoder: Encoder, dataset: SegmentationDataset, index: int) -> tuple[Tensor, Tensor]:
    """An image (1, N, H, W), normalised, and what the backbone alone makes of it, (1, D, h, w)."""
    image = encoder.normalisation(dataset[index].image.to(next(encoder.parameters()).device))[None]
    if encoder.decoder:
        maps: list[Tensor] = encoder.backbone.maps(encoder.padded(image))  # type: ignore[operator]
        return image, maps[-1]
    return image, encoder.backbone_features(image)


def pooled(maps: Tensor) -> Tensor:
    """Maps (1, D, h, w) to the mean of each part, (K, D), on the CPU."""
    return F.adaptive_avg_pool2d(maps.float(), SIDE)[0].flatten(1).T.cpu()
