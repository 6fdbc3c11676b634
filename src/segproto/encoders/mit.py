"""SegFormer's Mix Transformers as a backbone, by the optional package ``transformers``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segproto.encoders.base import Backbone
from segproto.encoders.kind import BackboneKind
from segproto.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from segproto.encoders.config import EncoderConfig

WIDE = (64, 128, 320, 512)
SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # name: (channels, blocks) of the four stages
    "mit_b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": (WIDE, (2, 2, 2, 2)),
    "mit_b2": (WIDE, (3, 4, 6, 3)),
    "mit_b3": (WIDE, (3, 4, 18, 3)),
    "mit_b4": (WIDE, (3, 8, 27, 3)),
    "mit_b5": (WIDE, (3, 6, 40, 3)),
}


class MiT(Backbone):
    """A Mix Transformer (Xie et al. 2021): four maps, strides 4 to 32.

    Args:
        config: with ``name: mit`` and ``backbone: mit_b0`` .. ``mit_b5``. ``weights`` is a folder as the hub has it
            (``config.json`` beside ``model.safetensors``).
        load_weights: False builds the structure only.

    Raises:
        ConfigError: ``transformers`` is not installed, or no such size.
        WeightsError: a folder that does not fit, or a failed download.
    """

    stride_multiple = 32

    def __init__(self, config: EncoderConfig, load_weights: bool = True) -> None:
        super().__init__()
        try:
            from transformers import SegformerConfig, SegformerModel
        except ImportError as error:
            hint = 'pip install "segproto[transformers]"'
            raise ConfigError(f"encoder.name=mit needs the package transformers ({error}); {hint}") from error
        name = config.backbone or "none"
        if name not in SIZES:
            raise ConfigError(f"encoder.backbone={name}: expected one of {', '.join(SIZES)}")
        channels, blocks = SIZES[name]
        shape = SegformerConfig(
            hidden_sizes=list(channels),
            depths=list(blocks),
            decoder_hidden_size=256 if name in ("mit_b0", "mit_b1") else 768,
        )
        self.net: Any = SegformerModel(shape)
        if load_weights and (config.weights is not None or config.pretrained):
            self.net.load_state_dict(read_published(SegformerModel, config, shape))
        self.map_channels = channels
        self.num_features = sum(channels)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W), sides multiples of 32, to four maps, finest first."""
        return list(self.net(images, output_hidden_states=True).hidden_states)

    def forward(self, images: Tensor) -> Tensor:
        """The four maps on the grid of the finest, side by side: (B, num_features, H/4, W/4)."""
        first, *others = self.maps(images)
        size = (first.shape[-2], first.shape[-1])
        same = [F.interpolate(m, size, mode="bilinear", align_corners=False) for m in others]
        return torch.cat([first, *same], 1)


def read_published(model: Any, config: EncoderConfig, shape: Any) -> dict[str, Tensor]:
    """Tensors of a published Mix Transformer by the names of the installed ``transformers``.

    These differ between its versions, so its own loader reads the file.

    Raises:
        WeightsError: it cannot be read, or lacks tensors of the backbone.
    """
    source = f"nvidia/{(config.backbone or '').replace('_', '-')}"
    if config.weights is not None:
        if not Path(config.weights).is_dir():
            raise WeightsError(
                f"{config.weights}: expected a folder with config.json and model.safetensors, as the hub has it"
            )
        source = str(config.weights)
    options = {"local_files_only": config.weights is not None, "output_loading_info": True}
    try:
        net, report = model.from_pretrained(source, config=shape, **options)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{source}: cannot be read ({reason}); give the folder in encoder.weights") from error
    wrong = [*report["missing_keys"], *report.get("mismatched_keys", [])]
    if wrong:
        raise WeightsError(
            f"{source}: {len(wrong)} tensors of {config.backbone} are not in it, first {sorted(map(str, wrong))[0]}"
        )
    state: dict[str, Tensor] = net.state_dict()
    return state


MIT = BackboneKind(
    name="mit",
    title="SegFormer's Mix Transformers (extra transformers)",
    build=MiT,
    reads=("backbone", "pretrained"),
)
