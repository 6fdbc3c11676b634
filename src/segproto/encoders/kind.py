"""What a backbone and a neck are: one record each that says what ``encoder.name`` and ``encoder.neck`` mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from segproto.encoders.base import Backbone
    from segproto.encoders.config import EncoderConfig


@dataclass(frozen=True, kw_only=True)
class BackboneKind:
    """A kind of backbone.

    Attributes:
        name: as in ``encoder.name``.
        title: one line for people.
        build: from the settings, and whether weights are to be loaded (False where an artefact's tensors follow), to
            the network: filled from ``encoder.weights`` if that is set, else as it starts.
        reads: those of the settings ``backbone``, ``layers``, ``pretrained``, ``input_scale`` and ``network`` that it
            reads; the others are refused.
        bands: it takes images of any number of bands, not only of three.
        weights_of: the kind whose weights files it reads, if not its own.
        from_scratch: small enough to learn from random weights; the others want weights to begin from.
    """

    name: str
    title: str
    build: Callable[[EncoderConfig, bool], Backbone]
    reads: tuple[str, ...] = ()
    bands: bool = False
    weights_of: str = ""
    from_scratch: bool = False


@dataclass(frozen=True, kw_only=True)
class NeckKind:
    """A kind of neck.

    Attributes:
        name: as in ``encoder.neck``.
        title: one line for people.
        build: from the settings and the backbone to the neck and the channels of each of its scales. It takes
            (B, Db, h, w), or a list of maps, to (B, sum(scales), h, w).
        reads: those of the settings ``reduce``, ``layer_norm``, ``auxiliary``, ``projection`` and ``neck_momentum``
            that it reads; the others are refused.
        maps: it takes the list of the backbone's maps, not its one joined map.
        several: and reads more than the last of them, so that a cache of one map per image cannot feed it.
        branches: its scales are parallel branches, one per dilation rate.
    """

    name: str
    title: str
    build: Callable[[EncoderConfig, Backbone], tuple[nn.Module, tuple[int, ...]]]
    reads: tuple[str, ...] = ()
    maps: bool = False
    several: bool = False
    branches: bool = False
