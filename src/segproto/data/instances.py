"""Which single car or person a pixel belongs to, where a data set says so beside its labels (Cityscapes)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segproto.data.archives import Member, archive
from segproto.data.images import read_indices

LABELS, INSTANCES = "_labelIds.png", "_instanceIds.png"
# Mean pixels of an instance in the training set, as the official evaluation weights them.
CITYSCAPES_SIZES = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "caravan": 36771.8241758242,
    "trailer": 16926.9763313609,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}


def instance_file(mask: Path | Member) -> Path | Member | None:
    """The official file of instances beside a file of label ids, in its folder or archive; None if there is none."""
    if not mask.name.endswith(LABELS):
        return None
    if isinstance(mask, Member):
        member = mask.member.removesuffix(LABELS) + INSTANCES
        return replace(mask, member=member) if member in archive(mask.archive).NameToInfo else None
    file = mask.with_name(mask.name.removesuffix(LABELS) + INSTANCES)
    return file if file.is_file() else None


def read_instances(path: Path | Member) -> Tensor:
    """Instance numbers, int64 (H, W), 0 = none: what is stored above 1,000 (class id x 1,000 + number).

    Raises:
        DataError: naming the file, if it cannot be read.
    """
    stored = read_indices(path)  # type: ignore[arg-type]
    return torch.from_numpy(np.where(stored > 1000, stored, 0))
