"""The kinds of backbone and of neck, in the order they are listed in: a line each."""

from __future__ import annotations

from segproto.encoders.aspp import ASPP_NECK
from segproto.encoders.aspp_pool import ASPP_POOL
from segproto.encoders.codes import CODES
from segproto.encoders.decoders import FCN_DECODER, SEGFORMER_DECODER, UPER_DECODER
from segproto.encoders.hrnet import HRNET
from segproto.encoders.identity import IDENTITY
from segproto.encoders.kind import BackboneKind, NeckKind
from segproto.encoders.largefov import LARGEFOV
from segproto.encoders.mit import MIT
from segproto.encoders.network import NETWORK
from segproto.encoders.resnet import DEEPLAB_RESNET101
from segproto.encoders.resnet38 import RESNET38D, RESNET38D_TAPS
from segproto.encoders.timm_backbone import TIMM
from segproto.encoders.unet import UNET
from segproto.table import Table

BACKBONES: Table[BackboneKind] = Table(
    "encoder", (TIMM, DEEPLAB_RESNET101, UNET, HRNET, MIT, RESNET38D, RESNET38D_TAPS, NETWORK), "segproto.encoders"
)
NECKS: Table[NeckKind] = Table(
    "neck",
    (ASPP_NECK, IDENTITY, FCN_DECODER, UPER_DECODER, SEGFORMER_DECODER, CODES, LARGEFOV, ASPP_POOL),
    "segproto.necks",
)
