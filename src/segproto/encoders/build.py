"""Encoders from their settings."""

from __future__ import annotations

import logging

from segproto.encoders.base import Backbone, Encoder
from segproto.encoders.config import EncoderConfig
from segproto.encoders.table import BACKBONES, NECKS
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
    if load_weights:  # an artefact is what it is
        refuse_unread(config)
    refuse_bands(config)
    backbone = build_backbone(config, load_weights)
    require_any_size(config, backbone)
    neck, scale_dims = config.neck_kind.build(config, backbone)
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
    return config.backbone_kind.build(config, load_weights)


def require_any_size(config: EncoderConfig, backbone: Backbone) -> None:
    """Refuses ``pad: false`` with a backbone that needs padding.

    Raises:
        ConfigError: naming the backbone.
    """
    if config.pad is False and not backbone.any_size:
        raise ConfigError(
            f"encoder.pad=false: {config.backbone or config.name} does not take images of any size; "
            "resnet38d and timm's ResNets do"
        )


def refuse_bands(config: EncoderConfig) -> None:
    """Networks that are what they were published as take three bands.

    Raises:
        ConfigError: naming the networks that take others.
    """
    if config.bands != 3 and not config.backbone_kind.bands:
        able = " or ".join(kind.name for kind in BACKBONES.values() if kind.bands)
        raise ConfigError(
            f"encoder.name={config.name}: takes images of three bands, data.bands has {config.bands}; name three of "
            f"them, or set encoder.name={able}"
        )


def refuse_unread(config: EncoderConfig) -> None:
    """Settings that the backbone or the neck does not read are an error.

    Raises:
        ConfigError: naming the setting, and who reads it.
    """
    backbone = (BACKBONES, config.backbone_kind, ("backbone", "layers", "pretrained", "input_scale", "network"))
    neck = (NECKS, config.neck_kind, ("reduce", "layer_norm", "auxiliary", "projection", "neck_momentum"))
    for table, own, settings in (backbone, neck):
        for setting in settings:
            value, start = getattr(config, setting), type(config).model_fields[setting].default
            if value != start and setting not in own.reads:
                readers = [kind.name for kind in table.values() if setting in kind.reads]
                read = "reads" if len(readers) == 1 else "read"
                what = f"only {', '.join(readers)} {read} it, the {table.what} is {own.name}"
                raise ConfigError(f"encoder.{setting}={value}: {what}")
