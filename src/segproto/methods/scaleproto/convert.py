"""The published checkpoints of ScaleProtoSeg: pickled whole modules."""

from __future__ import annotations

from pathlib import Path

from segproto.interop.conversion import Options, Source
from segproto.interop.published_prototypes import convert_pickled
from segproto.model.segmenter import Segmenter


def convert(path: Path, options: Options) -> Segmenter:
    """Stage 1 (``push_final.pth``), grouped (``nopush-group_last.pth``) or thresholded (``th-0.05-...``)."""
    return convert_pickled(path, options, SOURCE, "scaleproto", multi_scale=True)


SOURCE = Source(
    name="scaleprotoseg",
    title="ScaleProtoSeg, any stage, on DeepLabv2 ResNet-101 or the EM U-Net",
    where="https://zenodo.org/records/14946772",
    size="about 190 MB (DeepLab), 125 MB (U-Net)",
    license="code MIT (github.com/eceo-epfl/ScaleProtoSeg); for the weights see the record",
    paper="H. Porta, E. Dalsasso, D. Marcos, D. Tuia: Multi-Scale Grouped Prototypes for Interpretable Semantic "
    "Segmentation, WACV 2025",
    convert=convert,
)
SOURCES = (SOURCE,)
