"""No neck: the backbone's map as it is."""

from __future__ import annotations

from torch import nn

from segproto.encoders.kind import NeckKind

IDENTITY = NeckKind(
    name="identity",
    title="the backbone's map as it is",
    build=lambda config, backbone: (nn.Identity(), (backbone.num_features,)),
)
