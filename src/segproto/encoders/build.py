"""Encoders from their settings."""

from __future__ import annotations

import logging

from torch import nn

from segproto.encoders.aspp import ASPP
from segproto.encoders.aspp_pool import ASPPPool
from segproto.encoders.base import DECODERS, Backbone, Encoder
from segproto.encoders.codes import Codes
from segproto.encoders.config import EncoderConfig
from segproto.encoders.decoders import Decoder
from segproto.encoders.largefov import LargeFOV
from segproto.encoders.resnet import DeepLabResNet101, load_imagenet_resnet101
from segproto.encoders.unet import UNet
from segproto.encoders.weights import fit, read_state
from segproto.errors import ConfigError

log = logging.getLogger(__name__)


def build_encoder(config: EncoderConfig, *, load_weights: bool = True) -> Encoder:
    """Backbone and neck, with the weights the settings ask for.

    Args:
        config: the settings.
        load_weights: False when an artefact's tensors follow: no file is read, nothing is downloaded.

    Returns:
        The encoder, on the CPU, in train mode; its backbone already frozen if ``config.frozen``.

    Raises:
        ConfigError: settings that do not go together.
        WeightsError: a weights file that is missing or does not fit.
    """
    backbone = build_backbone(config, load_weights)
    neck: nn.Module
    if config.neck == "aspp":
        neck = ASPP(backbone.num_features, config.dim, config.rates, config.fusion, config.reduce, config.layer_norm)
        scale_dims = neck.scale_dims
    elif config.neck == "codes":
        neck = Codes(backbone.num_features, config.dim, config.code_dropout)
        scale_dims = neck.scale_dims
    elif config.neck == "aspp_pool":
        check_rates(config)
        neck = ASPPPool(backbone.num_features, config.dim, config.rates)
        scale_dims = neck.scale_dims
    elif config.neck == "largefov":
        neck = LargeFOV(backbone.num_features)
        scale_dims = neck.scale_dims
    elif config.neck in DECODERS:
        channels = backbone.map_channels or (backbone.num_features,)
        check_decoder(config, len(channels))
        neck, scale_dims = Decoder(config, channels), (config.dim,)
    else:
        neck, scale_dims = nn.Identity(), (backbone.num_features,)
    refuse_decoder_settings(config)
    limits = {"stride_multiple": backbone.stride_multiple, "smallest": backbone.smallest}
    encoder = Encoder(backbone, neck, scale_dims, backbone.normalisation, config, **limits)
    if config.frozen:
        if load_weights and config.weights is None and not config.pretrained:
            log.warning(
                "warning: the frozen backbone has random weights and will not learn; "
                "set encoder.weights=FILE or encoder.pretrained=true"
            )
        encoder.freeze_backbone()
    return encoder


def build_backbone(config: EncoderConfig, load_weights: bool) -> Backbone:
    """The backbone alone, filled from ``config.weights`` (or timm's download)."""
    if config.name == "timm":
        from segproto.encoders.timm_backbone import TimmBackbone

        return TimmBackbone(config, load_weights)
    if config.name == "mit":
        from segproto.encoders.mit import MiT

        return MiT(config, load_weights)
    if config.name == "hrnet":
        from segproto.encoders.hrnet import HRNet

        return HRNet(config, load_weights)
    refuse_timm_settings(config)
    if config.name in ("resnet38d", "resnet38d_taps"):
        from segproto.encoders.resnet38 import ResNet38d, ResNet38Taps, load_resnet38d

        wide = ResNet38d() if config.name == "resnet38d" else ResNet38Taps()
        if load_weights and config.weights is not None:
            load_resnet38d(wide, config.weights)
        return wide
    if config.name == "unet":
        unet = UNet(config.width, config.output_stride or 1)
        if load_weights and config.weights is not None:
            fit(unet, read_state(config.weights), config.weights)
        return unet
    if config.output_stride not in (None, 8):
        raise ConfigError(f"encoder.output_stride={config.output_stride}: deeplabv2_resnet101 has 8")
    resnet = DeepLabResNet101()
    if load_weights and config.weights is not None:
        load_imagenet_resnet101(resnet, read_state(config.weights), config.weights)
    return resnet


def refuse_timm_settings(config: EncoderConfig) -> None:
    """Settings that only ``name: timm`` reads are an error elsewhere."""
    given: dict[str, object] = {
        "backbone": config.backbone,
        "layers": config.layers,
        "pretrained": config.pretrained or None,
    }
    given["input_scale"] = None if config.input_scale == 1 else config.input_scale
    for key, value in given.items():
        if value is not None:
            raise ConfigError(f"encoder.{key}={value}: only encoder.name=timm reads it, this is {config.name}")


def check_decoder(config: EncoderConfig, maps: int) -> None:
    """Refuses an auxiliary classifier on a map that is not there, and a pyramid decoder of one map.

    Raises:
        ConfigError: naming the setting.
    """
    if config.neck != "fcn" and maps < 2:
        raise ConfigError(
            f"encoder.neck={config.neck} reads several maps, here is {maps}; set encoder.layers, as in [0, 1, 2, 3]"
        )
    if config.auxiliary is not None and config.auxiliary >= maps - 1:
        raise ConfigError(
            f"encoder.auxiliary={config.auxiliary}: of {maps} maps it may read 0..{maps - 2}, not the last"
        )


def check_rates(config: EncoderConfig) -> None:
    """The pooled ASPP has four branches, as published.

    Raises:
        ConfigError: another number of rates.
    """
    if len(config.rates) != 4:
        raise ConfigError(f"encoder.rates={config.rates}: aspp_pool takes four")


def refuse_decoder_settings(config: EncoderConfig) -> None:
    """Settings that only the decoders, or only the ASPP, read are an error with other necks."""
    for key, value in {"reduce": config.reduce, "layer_norm": config.layer_norm or None}.items():
        if value is not None and config.neck != "aspp":
            raise ConfigError(f"encoder.{key}={value}: only aspp reads it, the neck is {config.neck}")
    given = {"auxiliary": config.auxiliary, "projection": config.projection or None}
    for key, value in given.items():
        if value is not None and config.neck not in DECODERS:
            raise ConfigError(f"encoder.{key}={value}: only {', '.join(DECODERS)} read it, the neck is {config.neck}")
