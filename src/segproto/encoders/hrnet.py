"""HRNet as a backbone, fused as the published segmentation weights need it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segproto.encoders.base import Backbone
from segproto.encoders.kind import BackboneKind
from segproto.encoders.lean_timm import lean_timm
from segproto.encoders.weights import fit, read_state
from segproto.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from segproto.encoders.config import EncoderConfig

# Of an ImageNet classifier, not of the features.
CLASSIFIER = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")


class HRNet(Backbone):
    """HRNet (Wang et al. 2020): its four maps brought to stride 4 and put side by side (W48: 720 channels).

    Names and shapes are timm's ``hrnet_*`` features, which are those of the published code. timm fuses with nearest
    upsampling, under which the same weights give other features (by 9 to 16 %); here it is bilinear with aligned
    corners, as published.

    Args:
        config: with ``name: hrnet`` and ``backbone: hrnet_w48`` (or another width).
        load_weights: False builds the structure only.

    Raises:
        ConfigError: no such network.
        WeightsError: a weights file that does not fit, or a failed download.
    """

    stride_multiple = 32

    def __init__(self, config: EncoderConfig, load_weights: bool = True) -> None:
        timm = lean_timm()
        super().__init__()
        name = config.backbone or "hrnet_w48"
        models = timm.list_models("hrnet_w*")
        if name not in models:
            raise ConfigError(f"encoder.backbone={name}: expected one of {', '.join(models)}")
        options: dict[str, Any] = {"features_only": True, "feature_location": "", "out_indices": (1, 2, 3, 4)}
        try:
            download = config.pretrained and load_weights and config.weights is None
            net: Any = timm.create_model(name, pretrained=download, **options)
        except (OSError, RuntimeError) as error:
            raise WeightsError(
                f"{name}: its weights cannot be downloaded ({error}); give a local file: encoder.weights=FILE"
            ) from error
        self.num_features = sum(net.feature_info.channels())
        align_corners(net)
        self.net: nn.Module = net
        if load_weights and config.weights is not None:
            state = {k: v for k, v in read_state(config.weights).items() if not k.startswith(CLASSIFIER)}
            fit(self.net, state, config.weights)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W), sides multiples of 32, to features (B, num_features, H/4, W/4)."""
        first, *others = self.net(images)
        size = first.shape[-2:]
        return torch.cat([first, *(F.interpolate(m, size, mode="bilinear", align_corners=True) for m in others)], 1)


def align_corners(net: nn.Module) -> None:
    """Replaces every upsampling layer by bilinear with aligned corners; it has no tensors."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Upsample):
                setattr(module, name, nn.Upsample(scale_factor=child.scale_factor, mode="bilinear", align_corners=True))


HRNET = BackboneKind(name="hrnet", title="HRNet, fused as published", build=HRNet, reads=("backbone", "pretrained"))
