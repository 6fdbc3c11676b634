"""A head of class activation maps: what pixelcontrast's first stages train (Wang et al. 2020; Du et al. 2022)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segproto.model.head import Contributions, Head, HeadDescription
from segproto.refine.seam import correlation_input, pixel_correlation, strongest_mean

EMBEDDING = 192  # of the pixel correlation, as published


class CamMaps(NamedTuple):
    """What the head gives on the grid.

    Attributes:
        cam: (B, C, h, w) raw maps.
        refined: (B, C, h, w) after pixel correlation.
        projection: (B, D, h, w), >= 0.
    """

    cam: Tensor
    refined: Tensor
    projection: Tensor


@dataclass(frozen=True)
class CamViews:
    """How an image becomes the inputs of several scales, and their maps one map of the image's size.

    Attributes:
        resize: of the image to a scale, bicubic with antialiasing: in ``float``, or by ``pil`` in bytes (all releases).
        enlarge: of maps: to the resized image and from there to the image, by ``half_pixel`` centres; the first of the
            two with ``align_corners`` (SEAM, wseg); or from the grid to the image at once, ``direct`` (PSA, EPS).
        pad: sides that are no multiples of the stride are padded; None = as the encoder does (releases: false).
    """

    resize: Literal["float", "pil"] = "float"
    enlarge: Literal["half_pixel", "align_corners", "direct"] = "half_pixel"
    pad: bool | None = None


RELEASED: dict[str, CamViews] = {
    "seam": CamViews("pil", "align_corners", pad=False),
    "eps": CamViews("pil", "direct", pad=False),
}


class AffineHead(Head):
    """A head that gives, perhaps beside classes, features whose differences are affinities of cells."""

    kind = "affinity"

    @abstractmethod
    def affinity_features(self, features: Tensor) -> Tensor:
        """Features (B, F, h, w) to those whose differences are affinities, (B, A, h, w)."""

    @abstractmethod
    def trained_for(self, affinity: bool) -> list[nn.Parameter]:
        """The parameters of the affinities, or all others."""


class MapHead(Head):
    """A head that gives class activation maps.

    As a segmenter it shows the classes it believes the image has, over a constant background, which is class 0.

    Attributes:
        background: that constant.
        views: how its maps over several scales are made unless a recipe says otherwise.
        pooled: share of a map's cells, the strongest ones, whose mean tells whether an image has the class.
    """

    kind = "cam"
    views = CamViews()
    caution = (
        "This network draws where a class is once a tag says that it is there. Without tags, as in the figures and "
        "images below, it takes every class that it half believes in: judge the masks it helped to make (Step by "
        "step), and train a segmenter on them."
    )
    background: float
    pooled: float = 1.0

    @abstractmethod
    def maps(self, features: Tensor) -> CamMaps:
        """Features (B, F, h, w) to maps and projection, with gradient."""

    def maps_of(self, features: Tensor, classes: Sequence[int], *, refined: bool) -> Tensor:
        """Raw or refined maps (B, K, h, w) of K classes alone; heads may do less for them than :meth:`maps` does."""
        maps = self.maps(features)
        return (maps.refined if refined else maps.cam)[:, list(classes)]

    @abstractmethod
    def trained_for(self, affinity: bool) -> list[nn.Parameter]:
        """The parameters of the affinities (if the head has any), or all others."""

    def forward(self, features: Tensor) -> Tensor:
        maps = self.maps(features)
        present = strongest_mean(maps.cam, self.pooled)[..., None, None]
        shown = (present > 0) | (present == present[:, 1:].amax(1, keepdim=True))
        scores = maps.refined / (maps.refined.amax((2, 3), keepdim=True) + 1e-5) * shown
        return torch.cat([torch.full_like(scores[:, :1], self.background), scores[:, 1:]], 1)


class CamHead(MapHead, AffineHead):
    """Maps of the classes in an image, refined by pixel correlation, with a projection to contrast and affinities.

    All are 1x1 convolutions on the encoder's features; those of the correlation get no gradient into the encoder.

    Args:
        num_features: channels of the features.
        num_classes: C; class 0 is the background.
        dim: channels of the projection (published: 128).
        affinity_dim: channels of the affinity features (published: 448).
        background: score of the background when it segments.
        pooled: see :class:`MapHead`.
    """

    kind = "cam"

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        dim: int = 128,
        affinity_dim: int = 128,
        background: float = 0.3,
        pooled: float = 1.0,
    ) -> None:
        super().__init__()
        self.pooled = pooled
        self.num_features, self.num_classes, self.background = num_features, num_classes, background
        self.classifier = nn.Conv2d(num_features, num_classes, 1, bias=False)
        self.project = nn.Conv2d(num_features, dim, 1, bias=False)
        self.reduce = nn.Conv2d(num_features, EMBEDDING, 1, bias=False)
        self.correlate = nn.Conv2d(EMBEDDING, EMBEDDING, 1, bias=False)
        self.affine_in = nn.Conv2d(num_features, affinity_dim, 1, bias=False)
        self.affine_out = nn.Conv2d(affinity_dim, affinity_dim, 1, bias=False)
        for layer in (self.classifier, self.project):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.correlate, self.affine_out):
            nn.init.xavier_uniform_(layer.weight, gain=4)
        for layer in (self.reduce, self.affine_in):
            nn.init.kaiming_normal_(layer.weight)

    def maps(self, features: Tensor) -> CamMaps:
        cam = self.classifier(features)
        refined = pixel_correlation(correlation_input(cam), self.embedding(features))
        return CamMaps(cam, refined, self.project(features).relu())

    def embedding(self, features: Tensor) -> Tensor:
        """What pixel correlation compares cells by."""
        embedded: Tensor = self.correlate(self.reduce(features.detach()).relu())
        return embedded

    def maps_of(self, features: Tensor, classes: Sequence[int], *, refined: bool) -> Tensor:
        cam: Tensor = self.classifier(features)
        if not refined:
            return cam[:, list(classes)]
        return pixel_correlation(correlation_input(cam)[:, list(classes)], self.embedding(features))

    def affinity_features(self, features: Tensor) -> Tensor:
        return F.elu(self.affine_out(F.elu(self.affine_in(features))))

    def trained_for(self, affinity: bool) -> list[nn.Parameter]:
        own = {*self.affine_in.parameters(), *self.affine_out.parameters()}
        return [p for p in self.parameters() if (p in own) is affinity]

    def contributions(self, features: Tensor, classes: Tensor) -> Contributions:
        """Of the raw maps: a refined map is a mean over the whole image and belongs to no cell."""
        weight = self.classifier.weight[:, :, 0, 0]
        return Contributions(features.float() * weight[classes], None, features.new_zeros(len(classes)))

    def describe(self) -> HeadDescription:
        return {
            "kind": self.kind,
            "num_features": self.num_features,
            "num_classes": self.num_classes,
            "dim": self.project.out_channels,
            "affinity_dim": self.affine_in.out_channels,
            "background": self.background,
            **({} if self.pooled == 1 else {"pooled": self.pooled}),
        }

    @classmethod
    def from_description(cls, value: HeadDescription) -> CamHead:
        return cls(**{key: value[key] for key in value if key != "kind"})
