"""CamVid: street scenes from video, 11 classes, with the given split.

Frames of a sequence look alike, so the set must never be split at random.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segproto.data.base import ClassTable
from segproto.data.kind import DataKind
from segproto.data.labels import LabelMap
from segproto.data.pairs import PairDataset, find_pairs, read_list
from segproto.data.roots import data_root
from segproto.prototypes.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from segproto.data.config import DataConfig

_VOID = 11
_TABLE = ClassTable(
    ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"),
    (
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (0, 0, 192),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
)
LABELS = LabelMap(_TABLE, {**{c: c for c in range(_VOID)}, _VOID: IGNORE_INDEX, IGNORE_INDEX: IGNORE_INDEX})


def open_camvid(config: DataConfig, split: str) -> PairDataset:
    """One split of CamVid: ``images/``, ``labels/`` (index PNG, 11 = void), ``train.txt`` and ``val.txt`` in the root.

    Raises:
        DataError: naming what is missing.
    """
    root = data_root(config)
    pairs = find_pairs(root / config.images, root / (config.labels or "labels"))
    return PairDataset(split, read_list(root / f"{split}.txt"), pairs, LABELS)


CAMVID = DataKind(
    name="camvid",
    title="CamVid with 11 classes",
    where="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
    terms="terms on that page; cite its papers",
    open=open_camvid,
)
