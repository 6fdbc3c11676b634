"""The encoder every model shares: backbone, neck, multi-scale input (MSC) and squashing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segproto.data.pixels import PLAIN, levels
from segproto.encoders.view import View
from segproto.errors import ConfigError

if TYPE_CHECKING:
    from segproto.encoders.config import EncoderConfig

log = logging.getLogger(__name__)


class Normalisation(NamedTuple):
    """Mean and standard deviation of each band of inputs in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Tensor) -> Tensor:
        """Pixels (..., N, H, W), see :mod:`segproto.data.pixels`, to float32, normalised."""
        mean = torch.tensor(self.mean, device=image.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=image.device).view(-1, 1, 1)
        return (levels(image) / 255 - mean) / std

    def of_bands(self, count: int) -> Normalisation:
        """The same for images of another number of bands: one band has the mean of all, of more they are repeated."""
        if count == len(self.mean):
            return self
        if count == 1:
            return Normalisation((sum(self.mean) / len(self.mean),), (sum(self.std) / len(self.std),))
        mean, std = (tuple(values[i % len(values)] for i in range(count)) for values in self)
        return Normalisation(mean, std)


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Backbone(nn.Module):
    """Images to one feature map; what ``build_encoder`` needs to know of it.

    Attributes:
        num_features: channels of the map.
        stride_multiple: image sides must be multiples of this.
        smallest: and at least this.
        normalisation: what its inputs must be normalised with.
        map_channels: channels of each of :meth:`maps`; empty = one map, that of ``forward``.
        any_size: it also takes sides that are no such multiples (cells then are fewer pixels at the border).
    """

    num_features: int
    stride_multiple: int = 1
    smallest: int = 1
    normalisation: Normalisation = IMAGENET
    map_channels: tuple[int, ...] = ()
    any_size: bool = False

    def maps(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W), sides multiples of ``stride_multiple``, to the maps that decoders read, finest first."""
        return [self(images)]


def freeze(module: nn.Module) -> None:
    """No gradients, and norms keep their statistics (until something calls ``train()`` on the module)."""
    module.requires_grad_(False)
    module.eval()


class Encoder(nn.Module):
    """Backbone and neck, with the MSC input wrapper and the squashing around them.

    Args:
        backbone: (B, 3, H, W) to (B, Db, h, w).
        neck: (B, Db, h, w), or a list of maps if ``config.neck`` is a decoder, to (B, sum(scale_dims), h, w).
        scale_dims: channels of each scale, in order.
        normalisation: what inputs must be normalised with.
        config: what ``build_encoder`` rebuilds this encoder from.
        stride_multiple: images are padded (bottom, right, by zeros) to a multiple of this before the backbone.
        smallest: and to at least this.

    Attributes:
        pixels: how image files become the pixels that this encoder was trained on.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        scale_dims: tuple[int, ...],
        normalisation: Normalisation,
        config: EncoderConfig,
        stride_multiple: int = 1,
        smallest: int = 1,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.scale_dims = scale_dims
        self.normalisation = normalisation
        self.config = config
        self.stride_multiple = stride_multiple
        self.smallest = smallest
        self.view = View()
        self.decoder = config.neck_kind.maps
        self.pixels = PLAIN
        self.backbone_frozen = False
        self._padding_told = False

    def freeze_backbone(self) -> None:
        """Freezes the backbone for good: its norms keep their statistics even after ``train()``."""
        self.backbone_frozen = True
        freeze(self.backbone)

    def train(self, mode: bool = True) -> Self:
        """As torch's, but a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.backbone_frozen:
            self.backbone.eval()
        return self

    @property
    def num_features(self) -> int:
        return sum(self.scale_dims)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The image area (pixels) that the feature grid covers; logits are upsampled to it, then cropped."""
        if self.config.pad is False:
            return height, width
        m = self.stride_multiple
        return -(-max(height, self.smallest) // m) * m, -(-max(width, self.smallest) // m) * m

    def padded(self, images: Tensor) -> Tensor:
        """Images with zeros up to :meth:`padded_size`."""
        h, w = images.shape[-2:]
        ph, pw = self.padded_size(h, w)
        if (ph, pw) == (h, w):
            return images
        self._tell_padding((h, w), (ph, pw))
        return F.pad(images, (0, pw - w, 0, ph - h))

    @contextmanager
    def padding(self, pad: bool | None) -> Iterator[None]:
        """Images are padded, or not, whatever ``config.pad`` says; None = as it says.

        Raises:
            ConfigError: the backbone needs padding.
        """
        own = self.config
        if pad is False and not getattr(self.backbone, "any_size", False):
            raise ConfigError(f"pad=false: {own.backbone or own.name} does not take images of any size")
        self.config = own if pad is None else own.model_copy(update={"pad": pad})
        try:
            yield
        finally:
            self.config = own

    def enlarged(self, grid: Tensor, size: tuple[int, int]) -> Tensor:
        """Maps on the grid (B, K, h, w) to the area (H, W) that it covers, bilinearly, as ``config.enlarge`` says."""
        return F.interpolate(grid, size=size, mode="bilinear", align_corners=self.config.aligned)

    def backbone_features(self, images: Tensor) -> Tensor:
        """Padded images through the backbone alone: what a feature cache stores."""
        out: Tensor = self.backbone(self.padded(images))
        return out

    def from_backbone(self, features: Tensor) -> Tensor:
        """Cached backbone features through neck and squashing (no MSC, no decoder of several maps)."""
        return self.finished(self.neck([features] if self.decoder else features))

    def finished(self, raw: Tensor) -> Tensor:
        """What the neck gave, squashed, on the grid that ``config.finer`` asks for.

        A linear classifier gains nothing there: it commutes with the interpolation. What compares features does not,
        and between two cells it then looks for what is alike to their mixture.
        """
        features, finer = self.squash(raw), self.config.finer or 1
        if finer == 1:
            return features
        height, width = features.shape[-2:]
        return self.enlarged(features, (finer * height, finer * width))

    def squash(self, raw: Tensor) -> Tensor:
        """The add-on layer (docs/specs/scaleproto.md#add-on-layer): ``sigmoid``, ``relu`` or ``none``."""
        if self.config.squash == "sigmoid":
            return torch.sigmoid(raw)
        return torch.relu(raw) if self.config.squash == "relu" else raw

    def forward_scales(self, images: Tensor) -> list[Tensor]:
        """All MSC outputs, squashed: [plain, one an MSC scale ..., fused]; only [plain] without MSC."""
        return self.forward_training(images)[0]

    def forward_training(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """:meth:`forward_scales`, and the map that an auxiliary classifier reads (of the plain scale), if any does."""
        raw, auxiliary = self._raw(images)
        if not self.config.msc:
            return [self.finished(raw)], auxiliary
        outputs, fused = [raw], raw
        for scale in self.config.msc:
            small = F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
            out = self._raw(small)[0]
            outputs.append(out)
            up = F.interpolate(out, size=raw.shape[-2:], mode="bilinear", align_corners=False)
            fused = torch.maximum(fused, up)
        return [self.finished(out) for out in [*outputs, fused]], auxiliary

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, N, H, W) to features (B, sum(scale_dims), h, w), MSC outputs fused."""
        return self.forward_scales(images)[-1]

    def _raw(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features before the squashing, and the auxiliary map."""
        if not self.decoder:
            return self.neck(self.backbone_features(images)), None
        maps = self.backbone.maps(self.padded(images))  # type: ignore[operator]
        which = self.config.auxiliary
        return self.neck(maps), None if which is None else maps[which]

    def _tell_padding(self, size: tuple[int, int], padded: tuple[int, int]) -> None:
        """Says once that images get padded."""
        if self._padding_told or torch.compiler.is_compiling():
            return
        self._padding_told = True
        multiple = f"the encoder needs multiples of {self.stride_multiple}"
        log.warning("images are padded (bottom, right): %dx%d to %dx%d, %s", *size, *padded, multiple)
