"""Checkpoints of ProtoSeg: pickled whole modules."""

from __future__ import annotations

from pathlib import Path

from segproto.interop.conversion import Options, Source
from segproto.interop.published_prototypes import convert_pickled
from segproto.model.segmenter import Segmenter


def convert(path: Path, options: Options) -> Segmenter:
    """``push_last.pth`` or ``pruned/checkpoints/push_last.pth``, of its own code or of ScaleProtoSeg's baseline."""
    return convert_pickled(path, options, SOURCE, "protoseg", multi_scale=False)


SOURCE = Source(
    name="protoseg",
    title="ProtoSeg, projected or pruned, on DeepLabv2 ResNet-101 or the EM U-Net",
    where="https://github.com/gmum/proto-segmentation; the baselines of https://zenodo.org/records/14946772",
    size="about 175 MB (DeepLab), 125 MB (U-Net)",
    license="see the repository; its data sets have terms of their own",
    paper="M. Sacha, D. Rymarczyk, Ł. Struski, J. Tabor, B. Zieliński: ProtoSeg: Interpretable Semantic Segmentation "
    "with Prototypical Parts, WACV 2023",
    convert=convert,
)
SOURCES = (SOURCE,)
