"""The proposals of the training images: made once, and handed out with the images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from segproto.data.base import Sample, SegmentationDataset
from segproto.data.images import read_indices
from segproto.files import link, tag_cache
from segproto.model.fingerprint import encoder_hash
from segproto.places import cache_root
from segproto.prototypes.labels import IGNORE_INDEX
from segproto.training.agreement import agreement
from segproto.training.devices import on_first
from segproto.training.figures import Figures
from segproto.training.procedures.map_images import result_path
from segproto.training.procedures.propose import PNG, ProposeConfig, propose_files
from segproto.training.stage import StageContext

MASKS = Path("stages/proposals/masks")  # in the run's folder


def make_proposals(context: StageContext, config: ProposeConfig) -> Figures:
    """Writes the proposals of every training image into the run, or into ``$SEGPROTO_CACHE`` for other runs, too."""
    fabric = context.fabric
    folder = context.out / "masks"
    shared = cache_folder(context, config)
    if shared is not None:
        on_first(fabric, lambda: link_folder(folder, shared))
    overlays = None if shared is not None else context.out / "overlays"
    propose_files(
        context.segmenter.encoder,
        context.train_set,
        config,
        folder,
        overlays=overlays,
        rank=fabric.global_rank,
        world=fabric.world_size,
    )
    fabric.barrier()
    counts = torch.zeros(3, dtype=torch.float64, device=fabric.device)
    names = context.train_set.names[fabric.global_rank :: fabric.world_size]
    for name in names:
        regions = torch.from_numpy(read_indices(result_path(folder, name, PNG)))
        shown = torch.bincount(regions.flatten().long(), minlength=256)[:IGNORE_INDEX].nonzero()
        without = float((regions == IGNORE_INDEX).float().mean())
        counts += torch.tensor([len(shown), shown.numel() == 0, without]).to(counts)
    total = agreement()(counts) / len(context.train_set)
    return {
        "training_images": len(context.train_set),
        "proposals_an_image": round(float(total[0]), 3),
        "images_without": round(float(total[1]), 4),
        "pixels_without": round(float(total[2]), 4),
    }


def cache_folder(context: StageContext, config: ProposeConfig) -> Path | None:
    """Where runs with this encoder, these images and settings share their proposals."""
    root = cache_root()
    if root is None:
        return None
    key = (encoder_hash(context.segmenter.encoder), context.train_set.fingerprint, config.model_dump_json())
    return root / f"proposals-{hashlib.sha256(repr(key).encode()).hexdigest()[:20]}"


def link_folder(folder: Path, target: Path) -> None:
    """Makes ``target``, and ``folder`` a link to it."""
    tag_cache(target)
    if not folder.exists():
        link(folder, target.absolute())


class Proposed(SegmentationDataset):
    """Training images whose masks hold label and proposal of each pixel, see :func:`pack`.

    Args:
        whole: the training images.
        out: the run's folder, which has their proposals.
    """

    def __init__(self, whole: SegmentationDataset, out: Path) -> None:
        self.whole, self.folder = whole, out / MASKS
        self.classes, self.split, self.names = whole.classes, whole.split, whole.names

    def __getitem__(self, index: int) -> Sample:
        sample = self.whole[index]
        regions = torch.from_numpy(read_indices(result_path(self.folder, self.names[index], PNG)))
        return sample._replace(mask=pack(sample.mask, torch.where(regions == IGNORE_INDEX, 0, regions)))

    def path(self, index: int) -> Path | None:
        return self.whole.path(index)

    @property
    def fingerprint(self) -> str:
        return self.whole.fingerprint


def pack(labels: Tensor, regions: Tensor) -> Tensor:
    """Labels 0..255 and proposals 0..254 (0 = none) as one int32; padding (255) is void and none."""
    return labels.to(torch.int32) | (regions.to(torch.int32) << 8)


def unpack(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and proposals again."""
    return packed & 255, packed >> 8
