"""How strong the background is where nothing but tags is known: from the maps alone, no mask is looked at."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from segproto.files.documents import Record, read_checked
from segproto.refine.otsu import otsu_threshold

BINS = 1000
RESULT = Path("stages/cams/result.json")
STRONG, WEAK = 0.8, 4.0  # of alpha: backgrounds of the affinities' labels, as far apart as the published ones
USUAL = 0.22  # where (1 - max)^6, the published background, crosses the maps
NARROWEST = 0.05  # of either side of the cut


class Cut(Record):
    """``result.json`` of the stage ``cams``, as far as it is read here."""

    cam_threshold: float | None = None
    otsu_threshold: float = USUAL

    @classmethod
    def of(cls, run: Path) -> Cut:
        """That of a run; of one without that stage the usual values."""
        return read_checked(run / RESULT, cls) if (run / RESULT).is_file() else cls()

    @property
    def shown(self) -> float:
        """Where pictures cut the maps: best by the true masks, where there are any."""
        return self.otsu_threshold if self.cam_threshold is None else self.cam_threshold


def strongest(maps: Tensor) -> Tensor:
    """Counts (BINS,) of the pixels of an image by their strongest map, of maps (K, H, W) in 0..1; K may be 0."""
    if not len(maps):
        return torch.zeros(BINS, dtype=torch.int64)
    return torch.histc(maps.amax(0).float().cpu(), BINS, 0, 1).long()


def cut_of(counts: Tensor) -> float:
    """Where the maps are cut, by Otsu's rule over all pixels of the training images; the usual value without any."""
    cut = otsu_threshold(counts)
    return USUAL if cut is None else min(max(cut, NARROWEST), 1 - NARROWEST)


def alpha_of(setting: float | str, cut: float, share: float = 1.0) -> float:
    """A number as it is; ``auto``: that by which ``(1 - max)^alpha`` crosses the maps at ``cut``, times ``share``."""
    return setting if isinstance(setting, int | float) else share * math.log(cut) / math.log(1 - cut)
