"""The tables of backbones and necks: names are checked by them, and what one does not read is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from segproto.encoders.build import build_encoder, refuse_unread
from segproto.encoders.config import EncoderConfig
from segproto.encoders.table import BACKBONES, NECKS
from segproto.errors import ConfigError

OF_BACKBONES = {"backbone": "x", "layers": [0], "pretrained": True, "input_scale": 2.0}
OF_NECKS = {"reduce": 8, "layer_norm": True, "auxiliary": 0, "projection": True}


def test_names_come_from_the_tables() -> None:
    properties = EncoderConfig.model_json_schema()["properties"]
    assert properties["name"]["enum"] == list(BACKBONES)
    assert properties["neck"]["enum"] == list(NECKS)
    with pytest.raises(ValidationError, match=r"no encoder has this name; did you mean unet\?"):
        EncoderConfig(name="unett")
    with pytest.raises(ValidationError, match=r"no neck has this name; did you mean aspp\?"):
        EncoderConfig(neck="asp")


@pytest.mark.parametrize("name", BACKBONES)
def test_what_a_backbone_does_not_read_is_refused(name: str) -> None:
    for key, value in OF_BACKBONES.items():
        config = EncoderConfig(name=name, **{key: value})
        if key in BACKBONES[name].reads:
            refuse_unread(config)
        else:
            with pytest.raises(ConfigError, match=f"encoder.{key}=.*: only timm.* it, the encoder is {name}"):
                build_encoder(config)


@pytest.mark.parametrize("neck", NECKS)
def test_what_a_neck_does_not_read_is_refused(neck: str) -> None:
    for key, value in OF_NECKS.items():
        config = EncoderConfig(neck=neck, **{key: value})
        if key in NECKS[neck].reads:
            refuse_unread(config)
        else:
            with pytest.raises(ConfigError, match=f"encoder.{key}=.*: only .* it, the neck is {neck}"):
                build_encoder(config)


@pytest.mark.parametrize("neck", NECKS)
def test_necks_give_the_scales_they_say(neck: str) -> None:
    encoder = build_encoder(
        EncoderConfig(name="unet", width=4, output_stride=4, dim=6, neck=neck)
        if not NECKS[neck].several
        else EncoderConfig(name="timm", backbone="resnet10t", layers=[0, 1], dim=6, neck=neck)
    )
    assert encoder.decoder == NECKS[neck].maps
    rates = encoder.config.scale_rates
    assert (rates is not None) == NECKS[neck].branches
    assert len(encoder.scale_dims) == (1 if rates is None else len(rates))
    assert encoder.config.model_copy(update={"fusion": "sum"}).scale_rates is None


def test_timm_is_imported_by_what_needs_it() -> None:
    code = "import sys, segproto.encoders.build; assert not {'timm', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
