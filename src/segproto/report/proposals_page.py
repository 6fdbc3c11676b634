"""The page about the proposals of one image: every round with its anchor, similarity and mask, then the CRF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.encoders.base import Encoder
from segproto.files import fresh, write
from segproto.prototypes.labels import IGNORE_INDEX
from segproto.refine.proposals import Round
from segproto.report.page import environment
from segproto.report.pictures import data_uri, heat
from segproto.report.tables import css
from segproto.training.procedures.propose import (
    ImageProposals,
    ProposeConfig,
    image_proposals,
    overlay,
    proposal_colours,
    save_index,
    save_overlay,
)
from segproto.version import __version__

SHOWN_ROUNDS = 60
SIDE = 360  # longest side of a round's pictures


def single_image(encoder: Encoder, dataset: SegmentationDataset, config: ProposeConfig, out: Path) -> dict[str, Any]:
    """Writes mask, overlay and page of the only image of ``dataset``."""
    sample = dataset[0]
    rounds: list[Round] = []
    proposals = image_proposals(encoder, sample.image, config, rounds.append)
    mask, picture = out / "masks" / f"{sample.name}.png", out / "overlays" / f"{sample.name}.jpg"
    with fresh(mask, "proposals") as file:
        save_index({"mask": proposals.mask}, file)
    save_overlay(picture, overlay(sample.colours, proposals.mask))
    page = out / "index.html"
    rounds_page(
        sample.name, sample.colours, proposals, rounds, config, page, encoder.padded_size(*proposals.image.shape[-2:])
    )
    return {"images": 1, "proposals": proposals.number, "masks": str(mask), "overlays": str(picture), "page": str(page)}


def rounds_page(
    name: str,
    image: Tensor,
    proposals: ImageProposals,
    rounds: list[Round],
    config: ProposeConfig,
    out: Path,
    padded: tuple[int, int],
) -> None:
    """Writes the page.

    Args:
        name: of the image.
        image: uint8 (3, H, W), as it is.
        proposals: of the image.
        rounds: of the extraction, in order.
        config: the settings.
        out: the HTML file.
        padded: pixels of the seen image that the grid covers.
    """
    active = [r for r in rounds if bool(r.active[0])]
    colours = proposal_colours()
    steps = [step(number, r, proposals.image, padded) for number, r in enumerate(active[:SHOWN_ROUNDS], 1)]
    uncovered = 1.0
    for row in steps:
        uncovered -= row["share"]
        row["left"] = max(uncovered, 0.0)
        row["colour"] = css(colours[row["number"]])
    kept_rounds = set(proposals.grid.regions.flatten().tolist())
    for row in steps:
        row["kept"] = row["number"] in kept_rounds
    coarse = torch.where(proposals.coarse == 0, IGNORE_INDEX, proposals.coarse).to(torch.uint8)
    html = (
        environment()
        .get_template("proposals.html.j2")
        .render(
            title=f"Mask proposals of {Path(name).name}",
            version=__version__,
            photo=data_uri(image),
            before=data_uri(overlay(proposals.image, coarse)),
            after=data_uri(overlay(image, proposals.mask)),
            steps=steps,
            number=proposals.number,
            hidden=len(active) - len(steps),
            config=config,
            empty=float((proposals.mask == IGNORE_INDEX).float().mean()),
            grid=tuple(proposals.grid.raw.shape[-2:]),
            seen=tuple(proposals.image.shape[-2:]),
        )
    )
    write(out, html.encode(errors="backslashreplace"), "page")


def step(number: int, r: Round, image: Tensor, padded: tuple[int, int]) -> dict[str, Any]:
    """Pictures and figures of one round."""
    h, w = r.similarity.shape[-2:]
    size = (image.shape[-2], image.shape[-1])
    cells = torch.stack([r.similarity[0].float().cpu(), r.member[0].float().cpu()])[None]
    full = F.interpolate(cells, size=padded, mode="nearest")[0, :, : size[0], : size[1]]
    row, column = divmod(int(r.anchor[0]), w)
    spot = ((row + 0.5) * padded[0] / h / size[0], (column + 0.5) * padded[1] / w / size[1])
    picture = image.float()
    masked = torch.where(full[1] > 0, picture, picture * 0.25)
    return {
        "number": number,
        "share": float(r.member[0].float().mean()),
        "cells": int(r.member[0].sum()),
        "top": 100 * min(spot[0], 1.0),
        "left_edge": 100 * min(spot[1], 1.0),
        "cell": (row, column),
        "similarity": data_uri(heat(full[0]), "jpeg", SIDE),
        "mask": data_uri(masked.round().to(torch.uint8), "jpeg", SIDE),
        "photo": data_uri(image, "jpeg", SIDE),
    }
