"""Small seeded segmenters of every head kind, for tests of predict, explain and evaluation."""

from __future__ import annotations

import torch
from torch import nn

from segproto.data.base import ClassTable
from segproto.encoders.base import HALF, Encoder
from segproto.encoders.config import EncoderConfig
from segproto.model.heads import GroupedHead, Head, LinearHead, PrototypeHead
from segproto.model.provenance import PrototypeSource, Provenance
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank

DIM, SCALES = 3, 2
PNG = b"\x89PNG\r\n\x1a\n" + bytes(25) + b"picture"  # as long as a header


def encoder(stride: int = 4, multiple: int = 1, seed: int = 0) -> Encoder:
    """A strided convolution and a 1x1 neck: 2 scales of 3 features in (0, 1)."""
    torch.manual_seed(seed)
    padding = 1 if stride > 1 else 0
    backbone = nn.Conv2d(3, 8, stride + 2 * padding, stride, padding)
    with torch.no_grad():
        backbone.weight.mul_(3)
    neck = nn.Conv2d(8, DIM * SCALES, 1)
    with torch.no_grad():
        neck.weight.mul_(4)
    return Encoder(backbone, neck, (DIM,) * SCALES, HALF, EncoderConfig(), multiple)


def head(kind: str, classes: int, seed: int = 0) -> Head:
    torch.manual_seed(seed + 1)
    if kind == "linear":
        out: Head = LinearHead(DIM * SCALES, classes)
        with torch.no_grad():
            out.weight.normal_(std=4)
            out.bias.copy_(-0.5 * out.weight.sum(1))  # features lie around 0.5: no class wins everywhere
        return out
    bank = PrototypeBank.regular(classes, 2, SCALES, DIM)
    out = GroupedHead(bank, 2) if kind == "grouped" else PrototypeHead(bank)
    with torch.no_grad():
        out.readout.add_(0.3 * torch.randn_like(out.readout))
        if kind == "grouped":
            out.grouping.threshold_(0.2)
    return out


def segmenter(kind: str = "prototype", classes: int = 4, stride: int = 4, multiple: int = 1, sources: bool = False):
    model_head = head(kind, classes)
    colours = tuple((40 * i, 255 - 40 * i, 90) for i in range(classes))
    table = ClassTable(tuple(f"class{i}" for i in range(classes)), colours)
    if not sources:
        return Segmenter(encoder(stride, multiple), model_head, table).eval()
    count = model_head.bank.num_prototypes
    known = [PrototypeSource(f"img{p}", (0, p), (4, 40), (0, p, 4, p + 4), 0.1, f"{p}.png") for p in range(count - 1)]
    provenance = Provenance("hash", "tiny", (*known, None))
    patches = {f"{p}.png": PNG for p in range(count - 1)}
    return Segmenter(encoder(stride, multiple), model_head, table, provenance, patches).eval()


def image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """uint8 (3, H, W): blobs, so that classes form regions."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, max(2, height // 6), max(2, width // 6), generator=generator)
    large = nn.functional.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)[0]
    return (large * 255).to(torch.uint8)
