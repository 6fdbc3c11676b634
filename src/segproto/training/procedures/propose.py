"""Mask proposals of images: encoder, extraction, CRF, and the files they are kept in."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from segproto.data.base import Sample, SegmentationDataset
from segproto.data.palette import default_colours
from segproto.data.picture import to_pil
from segproto.data.pixels import levels, like, to_colours
from segproto.encoders.base import Encoder
from segproto.files import stamped, write_picture
from segproto.prototypes.labels import IGNORE_INDEX, borders
from segproto.refine.proposals import THRESHOLD, Proposals, Round, propose
from segproto.refine.regions import refine_regions
from segproto.training.procedures.map_images import map_images

PNG = ".png"


class ProposeConfig(BaseModel):
    """Mask proposals.

    Attributes:
        threshold: psi: cells join an anchor's mask from this cosine with it.
        sign: of a round's direction: the ``largest`` projection is positive, or as ``published``; see
            :func:`segproto.refine.proposals.propose`.
        padding: what images are padded with to whole patches: their borders, ``replicate``, or ``zeros`` (published
            images need none), of which proposals of their own come.
        size: shorter side, in pixels, that images are brought to before the encoder and the CRF; None = as they are.
        crf: sharpen the proposals at the image's own edges.
    """

    model_config = ConfigDict(extra="forbid")

    threshold: float = Field(THRESHOLD, gt=0, lt=1)
    sign: Literal["largest", "published"] = "largest"
    padding: Literal["replicate", "zeros"] = "replicate"
    size: int | None = Field(320, ge=16, le=65_536)
    crf: bool = True


class ImageProposals(NamedTuple):
    """Proposals of one image.

    Attributes:
        mask: uint8 (H, W) at the image's own size, 1..M, 255 = none.
        image: uint8 (3, h', w'), the image as the CRF saw it.
        coarse: int64 (h', w'), the numbers before the CRF, 0 = none.
        grid: what :func:`segproto.refine.proposals.propose` found, a batch of one.
    """

    mask: Tensor
    image: Tensor
    coarse: Tensor
    grid: Proposals

    @property
    def number(self) -> int:
        """How many proposals have pixels."""
        pixels = torch.bincount(self.mask.flatten().long(), minlength=IGNORE_INDEX + 1)
        return int((pixels[:IGNORE_INDEX] > 0).sum())


@torch.no_grad()
def image_proposals(
    encoder: Encoder, image: Tensor, config: ProposeConfig, watch: Callable[[Round], None] | None = None
) -> ImageProposals:
    """The proposals of one image, by the features of the backbone, also where a neck makes codes of them (published).

    Args:
        encoder: in eval mode, on any device.
        image: pixels (N, H, W).
        config: the settings.
        watch: sees every round of the extraction.
    """
    device = next(encoder.parameters()).device
    size = (image.shape[-2], image.shape[-1])
    small = image if config.size is None else shorter_side(image, config.size)
    seen = (small.shape[-2], small.shape[-1])
    batch, padded = small[None].to(device), encoder.padded_size(*seen)
    inputs = encoder.normalisation(batch)
    if config.padding == "replicate":
        inputs = F.pad(inputs, (0, padded[1] - seen[1], 0, padded[0] - seen[0]), mode="replicate")
    features = encoder.backbone_features(inputs)
    proposals = propose(features.float(), threshold=config.threshold, sign=config.sign, watch=watch)
    small = to_colours(small, encoder.pixels.show)
    batch = small[None].to(device)
    coarse = refine_regions(batch, proposals.regions, proposals.counts, padded=padded, settings=None)
    fine = refine_regions(batch, proposals.regions, proposals.counts, padded=padded) if config.crf else coarse
    own = F.interpolate(fine[None].double(), size=size, mode="nearest-exact")[0, 0].to(torch.uint8)
    return ImageProposals(torch.where(own == 0, IGNORE_INDEX, own).cpu(), small, coarse[0].cpu(), proposals)


def shorter_side(image: Tensor, side: int) -> Tensor:
    """Pixels (N, H, W) resized to that shorter side: bilinear, antialiased, rounded."""
    height, width = image.shape[-2:]
    factor = side / min(height, width)
    if factor == 1:
        return image
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    resized = F.interpolate(levels(image)[None], size=size, mode="bilinear", antialias=True, align_corners=False)
    return like(resized[0], image)


def propose_files(
    encoder: Encoder,
    dataset: SegmentationDataset,
    config: ProposeConfig,
    out: Path,
    *,
    overlays: Path | None = None,
    rank: int = 0,
    world: int = 1,
    threads: int = 0,
) -> int:
    """Writes one index PNG per image to ``out``; what is there is skipped.

    Args:
        encoder: in eval mode.
        dataset: the images.
        config: the settings.
        out: a folder of nothing else.
        overlays: folder of pictures to look at (JPEG), or None.
        rank: this process.
        world: processes that share the work.
        threads: as in :func:`~segproto.training.procedures.map_images.map_images`.

    Returns:
        Images computed by this process.
    """

    free: SimpleQueue[Encoder] = SimpleQueue()
    for each in [encoder, *(twin(encoder) for _ in range(threads - 1))]:
        free.put(each)

    def one(index: int, sample: Sample) -> dict[str, Tensor]:
        own = free.get()
        try:
            mask = image_proposals(own, sample.image, config).mask
        finally:
            free.put(own)
        if overlays is not None:  # before the mask, whose file tells that an image is done
            save_overlay(overlays / f"{dataset.names[index]}.jpg", overlay(sample.colours, mask))
        return {"mask": mask}

    part = {"rank": rank, "world": world, "threads": threads}
    return map_images(dataset, one, out, title="propose", suffix=PNG, save=save_index, **part)


def twin(encoder: Encoder) -> Encoder:
    """The same encoder with the same tensors, for another thread: a module remembers things while it runs."""
    tensors = [*encoder.parameters(), *encoder.buffers()]
    return copy.deepcopy(encoder, {id(tensor): tensor for tensor in tensors})


def save_index(tensors: dict[str, Tensor], file: BinaryIO) -> None:
    """``mask``, uint8 (H, W), as a PNG whose palette shows the numbers; 255 is black; with its mark."""
    buffer = io.BytesIO()
    index_picture(tensors["mask"]).save(buffer, "PNG", optimize=False)
    file.write(stamped(buffer.getvalue(), "proposals"))


def index_picture(mask: Tensor) -> Image.Image:
    """A uint8 mask (H, W) as a picture with a palette."""
    picture = Image.fromarray(mask.numpy()).convert("L")
    picture.putpalette(np.array(proposal_colours(), dtype=np.uint8).tobytes())
    return picture


def proposal_colours() -> list[tuple[int, int, int]]:
    """256 colours: 0 grey, 1..254 proposals, 255 black."""
    return [(128, 128, 128), *default_colours(254), (0, 0, 0)]


def overlay(image: Tensor, mask: Tensor, share: float = 0.55) -> Tensor:
    """The image with proposals in colour: uint8 (3, H, W)."""
    table = torch.tensor(proposal_colours(), dtype=torch.float32)
    painted = image.cpu().float().lerp(table[mask.long()].permute(2, 0, 1), share)
    shown = torch.where((mask == IGNORE_INDEX)[None], image.cpu().float() * (1 - share), painted)
    shown[:, borders(mask)] = 255
    return shown.round().to(torch.uint8)


def save_overlay(path: Path, picture: Tensor) -> None:
    """A uint8 picture (3, H, W) as JPEG."""
    write_picture(path, lambda file: to_pil(picture).save(file, "JPEG", quality=90), "picture")
