"""The published heads on ResNet-38's maps: SEAM's, pixelcontrast's and EPS' maps, and AffinityNet, by their names.

Features are those of ``resnet38d_taps``, channels in blocks: image, conv4, conv5, conv6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segproto.encoders.resnet38 import TAPS
from segproto.model.cam_head import EMBEDDING, RELEASED, AffineHead, CamMaps, MapHead
from segproto.model.head import Contributions, HeadDescription
from segproto.refine.seam import correlation_input, pixel_correlation

NEAR, FAR = 64, 128  # channels of conv4 and conv5 in the pixel correlation


def conv1x1(channels: int, out: int) -> nn.Conv2d:
    """Without bias."""
    return nn.Conv2d(channels, out, 1, bias=False)


class TapHead(MapHead):
    """Class activation maps as SEAM, pixelcontrast and EPS publish them (Wang et al. 2020; Du et al. 2022).

    The pixel correlation reads the image, conv4 and conv5, without gradient into them; maps and projection read conv6.

    Args:
        num_classes: C; class 0 is the background (EPS publishes it last).
        dim: channels of the projection (published: 128); 0 = none (SEAM, EPS, PSA).
        taps: channels of image, conv4, conv5 and conv6.
        refine: pixel correlation; False: the refined maps are the raw ones (EPS, PSA).
        dropout: of conv6's channels in training (EPS: 0).
        shows: as a segmenter, ``present`` classes over a constant background, or the raw maps as ``logits``, which EPS
            trains to segment.
        background: that constant.
        released: a converted network, whose maps over several scales are made as the release of SEAM or of EPS does.
        pooled: see :class:`~segproto.model.cam_head.MapHead`.
    """

    kind = "cam_taps"

    def __init__(
        self,
        num_classes: int,
        dim: int = 128,
        *,
        taps: Sequence[int] = TAPS,
        refine: bool = True,
        dropout: float = 0.5,
        shows: Literal["present", "logits"] = "present",
        background: float = 0.26,
        released: Literal["seam", "eps"] | None = None,
        pooled: float = 1.0,
    ) -> None:
        super().__init__()
        self.released, self.pooled = released, pooled
        if released is not None:
            self.views = RELEASED[released]
        self.num_classes, self.taps, self.shows, self.background = num_classes, tuple(taps), shows, background
        self.num_features = sum(taps)
        self.fc8 = conv1x1(taps[3], num_classes)
        self.fc_proj = conv1x1(taps[3], dim) if dim else None
        self.dropout7 = nn.Dropout2d(dropout)
        self.refine = refine
        nn.init.xavier_uniform_(self.fc8.weight)
        if self.fc_proj is not None:
            nn.init.xavier_uniform_(self.fc_proj.weight)
        if refine:
            self.f8_3, self.f8_4 = conv1x1(taps[1], NEAR), conv1x1(taps[2], FAR)
            self.f9 = conv1x1(taps[0] + NEAR + FAR, EMBEDDING)
            nn.init.kaiming_normal_(self.f8_3.weight)
            nn.init.kaiming_normal_(self.f8_4.weight)
            nn.init.xavier_uniform_(self.f9.weight, gain=4)

    def maps(self, features: Tensor) -> CamMaps:
        conv6 = self.dropout7(features[:, -self.taps[3] :])
        cam = refined = self.fc8(conv6)
        if self.refine:
            refined = pixel_correlation(correlation_input(cam), self.embedding(features))
        projection = cam[:, :0] if self.fc_proj is None else self.fc_proj(conv6).relu()
        return CamMaps(cam, refined, projection)

    def embedding(self, features: Tensor) -> Tensor:
        """What pixel correlation compares cells by: the image and two inner maps."""
        image, conv4, conv5, _ = features.split_with_sizes(self.taps, 1)
        inner = [image, self.f8_3(conv4.detach()).relu(), self.f8_4(conv5.detach()).relu()]
        embedded: Tensor = self.f9(torch.cat(inner, 1))
        return embedded

    def maps_of(self, features: Tensor, classes: Sequence[int], *, refined: bool) -> Tensor:
        cam: Tensor = self.fc8(self.dropout7(features[:, -self.taps[3] :]))
        if not (refined and self.refine):
            return cam[:, list(classes)]
        return pixel_correlation(correlation_input(cam)[:, list(classes)], self.embedding(features))

    def trained_for(self, affinity: bool) -> list[nn.Parameter]:
        return [] if affinity else list(self.parameters())

    def forward(self, features: Tensor) -> Tensor:
        return self.fc8(features[:, -self.taps[3] :]) if self.shows == "logits" else super().forward(features)

    def contributions(self, features: Tensor, classes: Tensor) -> Contributions:
        """Of the raw maps: a refined map is a mean over the whole image and belongs to no cell."""
        weight = F.pad(self.fc8.weight[:, :, 0, 0], (self.num_features - self.taps[3], 0))
        return Contributions(features.float() * weight[classes], None, features.new_zeros(len(classes)))

    def describe(self) -> HeadDescription:
        return {
            "kind": self.kind,
            "num_classes": self.num_classes,
            "dim": 0 if self.fc_proj is None else self.fc_proj.out_channels,
            "taps": list(self.taps),
            "refine": self.refine,
            "dropout": self.dropout7.p,
            "shows": self.shows,
            "background": self.background,
            **({} if self.released is None else {"released": self.released}),
            **({} if self.pooled == 1 else {"pooled": self.pooled}),
        }

    @classmethod
    def from_description(cls, value: HeadDescription) -> TapHead:
        return cls(**{key: value[key] for key in value if key != "kind"})


class AffinityHead(AffineHead):
    """AffinityNet's layers (Ahn and Kwak 2018): conv4, conv5 and conv6, each reduced, to 448 channels.

    It learns which neighbours belong together and knows no classes: as a segmenter it says background everywhere.

    Args:
        num_classes: C, of the data.
        taps: channels of image (not read), conv4, conv5 and conv6.
        reduced: channels of each of the three.
    """

    kind = "affinity_taps"

    def __init__(self, num_classes: int, taps: Sequence[int] = TAPS, reduced: Sequence[int] = (64, 128, 256)) -> None:
        super().__init__()
        self.num_classes, self.taps, self.reduced = num_classes, tuple(taps), tuple(reduced)
        self.num_features = sum(taps)
        self.f8_3, self.f8_4, self.f8_5 = (conv1x1(i, o) for i, o in zip(taps[1:], reduced, strict=True))
        self.f9 = conv1x1(sum(reduced), sum(reduced))
        for layer in (self.f8_3, self.f8_4, self.f8_5):
            nn.init.kaiming_normal_(layer.weight)
        nn.init.xavier_uniform_(self.f9.weight, gain=4)

    def affinity_features(self, features: Tensor) -> Tensor:
        maps = features.split_with_sizes(self.taps, 1)[1:]
        layers = (self.f8_3, self.f8_4, self.f8_5)
        return F.elu(self.f9(torch.cat([F.elu(f(x)) for f, x in zip(layers, maps, strict=True)], 1)))

    def trained_for(self, affinity: bool) -> list[nn.Parameter]:
        return list(self.parameters()) if affinity else []

    def forward(self, features: Tensor) -> Tensor:
        logits = features.new_zeros(len(features), self.num_classes, *features.shape[-2:])
        logits[:, 0] = 1
        return logits

    def contributions(self, features: Tensor, classes: Tensor) -> Contributions:
        return Contributions(torch.zeros_like(features), None, (classes == 0).to(features))

    def describe(self) -> HeadDescription:
        return {
            "kind": self.kind,
            "num_classes": self.num_classes,
            "taps": list(self.taps),
            "reduced": list(self.reduced),
        }

    @classmethod
    def from_description(cls, value: HeadDescription) -> AffinityHead:
        return cls(value["num_classes"], value["taps"], value["reduced"])
