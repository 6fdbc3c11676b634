"""Any timm network as a backbone: CNNs and hierarchical networks by stages, plain ViTs by their patch grid."""

from __future__ import annotations

import contextlib
import difflib
import logging
from fractions import Fraction
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from segproto.encoders.base import Backbone, Normalisation
from segproto.encoders.kind import BackboneKind
from segproto.encoders.lean_timm import lean_timm
from segproto.encoders.position import resample_position_embedding
from segproto.encoders.vit_names import timm_names
from segproto.encoders.weights import fit, read_state
from segproto.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from segproto.encoders.config import EncoderConfig

log = logging.getLogger(__name__)
PLAIN_VITS = ("vision_transformer", "deit", "eva")  # timm modules: blocks at one resolution
RESIZABLE = ("swin_transformer", "swin_transformer_v2")  # window networks that must be told to take any size


class Taps(nn.Module):
    """A timm network that returns the chosen maps; a module, so that a parameter can be swapped for a call."""

    def __init__(self, net: nn.Module, layers: list[int], norm: bool) -> None:
        super().__init__()
        self.net = net
        self.layers = layers
        self.options: dict[str, Any] = {"norm": True} if norm else {}

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) to one map (B, D, h, w) a layer."""
        maps: list[Tensor] = self.net.forward_intermediates(  # type: ignore[operator]
            images, indices=self.layers, intermediates_only=True, output_fmt="NCHW", **self.options
        )
        return maps


def near_models(name: str) -> str:
    """Names that begin with, contain or resemble a name that timm does not know."""
    timm = lean_timm()
    models = timm.list_models()
    begun = [model for model in models if model.startswith(name)]
    near = begun or [model for model in models if name in model] or difflib.get_close_matches(name, models, n=3)
    return f"did you mean {', '.join(near[:3])}?" if name and near else "timm.list_models() shows all"


class TimmBackbone(Backbone):
    """A timm network, its input scale and the layers whose maps are concatenated.

    Position embeddings of ViTs follow the DINO reference rule (see :mod:`segproto.encoders.position`) except where
    the network's own code resizes them otherwise (register variants, rotary embeddings), which timm reproduces.
    Maps of several strides are brought to the finest grid (bilinear). Images must have sides that the coarsest
    stride divides: some networks round grids down (then border pixels would belong to no cell), some fail.

    Args:
        config: with ``name: timm``.
        load_weights: False builds the structure only.

    Raises:
        ConfigError: unknown network, or an output stride, layer or input scale it does not have.
        WeightsError: a weights file that does not fit, or a failed download.
    """

    def __init__(self, config: EncoderConfig, load_weights: bool = True) -> None:
        timm = lean_timm()
        super().__init__()
        name = config.backbone
        if name is None or not timm.is_model(name):
            raise ConfigError(f"encoder.backbone={name}: not a timm model; {near_models(name or '')}")
        vit = timm.models.is_model_in_modules(name, PLAIN_VITS)
        net: Any = create(config, config.pretrained and load_weights and config.weights is None, vit)
        norm = Normalisation(tuple(net.pretrained_cfg["mean"]), tuple(net.pretrained_cfg["std"]))
        self.normalisation = norm.of_bands(config.bands)
        if load_weights and config.bands != 3 and (config.weights is not None or config.pretrained):
            log.warning("encoder: images have %d bands; the first layer's weights for 3 are %s", *adapted(config.bands))
        if load_weights and config.weights is not None:
            load_backbone(net, config.weights, config.bands)
        layers = check_layers(config, net)
        self.map_channels = tuple(net.feature_info[i]["num_chs"] for i in layers)
        self.num_features = sum(self.map_channels)
        net.prune_intermediate_layers(layers, prune_norm=False, prune_head=True)
        self.taps = Taps(net, layers, norm=vit)
        self.scale = config.input_scale
        self.reference_positions = vit and not net.dynamic_img_size and net.pos_embed is not None
        coarsest = max(stage["reduction"] for stage in net.feature_info)
        self.stride_multiple = pixel_multiple(config.input_scale, coarsest)
        self.any_size = timm.models.is_model_in_modules(name, ("resnet",))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), sides multiples of ``stride_multiple``, to features (B, num_features, h, w)."""
        maps = self.maps(images)
        finest = max((m.shape[-2:] for m in maps), key=lambda s: s[0] * s[1])
        same = [m if m.shape[-2:] == finest else F.interpolate(m, finest, mode="bilinear") for m in maps]
        return torch.cat(same, dim=1)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The chosen layers' maps of the resized images, finest first."""
        if self.scale != 1:
            size = [round(side * self.scale) for side in images.shape[-2:]]
            images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=self.scale < 1)
        return self.read_maps(images)

    def read_maps(self, images: Tensor) -> list[Tensor]:
        """One map a chosen layer, with position embeddings for this image size."""
        if not self.reference_positions:
            maps: list[Tensor] = self.taps(images)
            return maps
        net: Any = self.taps.net
        patch = net.patch_embed.patch_size
        grid = (images.shape[-2] // patch[0], images.shape[-1] // patch[1])
        prefix = 0 if net.no_embed_class else net.num_prefix_tokens
        positions = resample_position_embedding(net.pos_embed, grid, prefix)
        swapped: list[Tensor] = functional_call(self.taps, {"net.pos_embed": positions}, (images,))
        return swapped


def downloaded(net: nn.Module, name: str, options: dict[str, Any]) -> Any:
    """The same network with its published weights.

    Raises:
        WeightsError: there are none, or no network.
    """
    timm = lean_timm()
    size = sum(p.numel() * p.element_size() for p in net.parameters()) / 1e6
    log.warning("encoder.pretrained=true: %s, about %.0f MB, is downloaded unless an earlier run has", name, size)
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # its dozen lines on every retry say less than the one error below
    try:
        return timm.create_model(name, pretrained=True, num_classes=0, **options)
    except Exception as error:  # without weights it was built: the libraries that download have errors of many kinds
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise WeightsError(
            f"{name}: its weights cannot be downloaded ({said}); give a local file: encoder.weights=FILE"
        ) from error
    finally:
        hub.setLevel(level)


def create(config: EncoderConfig, pretrained: bool, vit: bool) -> Any:
    """The timm network without classifier, able to take any image size at the wanted output stride."""
    timm = lean_timm()
    name, stride = config.backbone or "", config.output_stride
    reference = vit and "_reg" not in name and not timm.models.is_model_in_modules(name, ("eva",))
    options: dict[str, Any] = {"dynamic_img_size": not reference} if vit else {}
    if config.bands != 3:
        options["in_chans"] = config.bands
    if timm.models.is_model_in_modules(name, RESIZABLE):
        options["strict_img_size"] = False
    if stride is not None and not vit:
        options["output_stride"] = stride
    try:
        net: Any = timm.create_model(name, num_classes=0, **options)
    except (TypeError, AssertionError, NotImplementedError, ValueError, KeyError) as error:
        if stride is None:
            raise ConfigError(f"encoder.backbone={name}: timm cannot build it ({error})") from error
        raise ConfigError(f"encoder.output_stride={stride}: {stride_hint(name)}") from error
    if pretrained:
        net = downloaded(net, name, options)
    if reference:
        net.patch_embed.strict_img_size = False
    if not vit and stride is not None and net.feature_info[-1]["reduction"] != stride:
        raise ConfigError(f"encoder.output_stride={stride}: {stride_hint(name)}")
    if vit and stride not in (None, net.patch_embed.patch_size[0]):
        patch = net.patch_embed.patch_size[0]
        raise ConfigError(f"encoder.output_stride={stride}: {name} has {patch}; encoder.input_scale makes finer grids")
    return net


def stride_hint(name: str) -> str:
    """Which output strides a network takes, for the error message."""
    timm = lean_timm()
    valid = []
    for stride in (8, 16, 32):
        with contextlib.suppress(Exception):  # refusals differ from model to model
            net: Any = timm.create_model(name, num_classes=0, output_stride=stride)
            if net.feature_info[-1]["reduction"] == stride:
                valid.append(str(stride))
    plain: Any = timm.create_model(name, num_classes=0)
    native = str(plain.feature_info[-1]["reduction"])
    if set(valid) - {native}:
        return f"{name} takes {', '.join(valid)}"
    return f"{name} cannot be dilated; leave it unset (its last map has stride {native}) or choose finer encoder.layers"


def check_layers(config: EncoderConfig, net: Any) -> list[int]:
    """The wanted layers as ascending indices from 0; the last one where none is asked for.

    Raises:
        ConfigError: for a layer the network does not have.
    """
    count = len(net.feature_info)
    layers = [count - 1] if config.layers is None else config.layers
    if not layers or not all(-count <= layer < count for layer in layers):
        raise ConfigError(f"encoder.layers={layers}: {config.backbone} has layers 0..{count - 1}")
    return sorted({layer % count for layer in layers})


def pixel_multiple(scale: float, stride: int) -> int:
    """The smallest number of image pixels that the input scale turns into whole cells of that stride.

    Raises:
        ConfigError: if the scale is no simple fraction, so that images would need much padding.
    """
    fraction = Fraction(scale).limit_denominator(8)
    if abs(fraction - Fraction(scale)) > Fraction(1, 10**6):
        raise ConfigError(f"encoder.input_scale={scale}: use a fraction with a small denominator: 1.25, 1.5, 2")
    unit = stride * fraction.denominator
    return unit // gcd(unit, fraction.numerator)


def adapted(bands: int) -> tuple[int, str]:
    """A number of bands, and what becomes of weights for three, in words."""
    return bands, "added up" if bands == 1 else "repeated and scaled by 3 / bands, as timm does"


def load_backbone(net: Any, path: Path, bands: int = 3) -> None:
    """Fills a timm network from a local file with timm's key names, or a plain ViT with those of other codes.

    Classifier keys are dropped, and a first layer of three bands is adapted to ``bands`` by timm's rule.

    Raises:
        WeightsError: naming the first few keys that do not fit.
    """
    names = net.pretrained_cfg["classifier"]
    heads = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
    unused = (*heads, "mask_token")  # DINOv2 files carry the token of their training
    state = {name: value for name, value in timm_names(read_state(path)).items() if not name.startswith(unused)}
    first = net.pretrained_cfg.get("first_conv") or ()
    for name in (first,) if isinstance(first, str) else first:
        weight = state.get(f"{name}.weight")
        if weight is not None and weight.ndim == 4 and weight.shape[1] == 3 != bands:
            from timm.models import adapt_input_conv

            state[f"{name}.weight"] = adapt_input_conv(bands, weight)
    fit(net, state, path)


TIMM = BackboneKind(
    name="timm",
    title="any network of timm, by encoder.backbone",
    build=TimmBackbone,
    reads=("backbone", "layers", "pretrained", "input_scale"),
    bands=True,
)
