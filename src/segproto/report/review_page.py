"""The page of ``review``: what to look at next, each with its picture and its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.errors import DataError
from segproto.evaluation.review.labels import Reason, Suspicion
from segproto.evaluation.review.regions import Region
from segproto.evaluation.review.shortcuts import Shortcut
from segproto.files import write
from segproto.files.marks import marked
from segproto.model.patches import patch_picture, stored_patch
from segproto.model.segmenter import Segmenter
from segproto.report.page import environment
from segproto.report.pictures import data_uri, image_uri
from segproto.report.tables import css
from segproto.version import __version__

SIDE = 420  # longest side of a picture
AROUND = 0.6  # of a region's larger side is shown around it
LEAST = 96  # pixels that are shown at least
SHORTCUTS = 10  # lines
RIM, DARK = (255, 255, 255), (0, 0, 0)


def review_page(
    model: Segmenter,
    dataset: SegmentationDataset,
    found: Sequence[Suspicion],
    out: Path,
    *,
    total: int,
    shortcuts: Sequence[Shortcut] | None = None,
) -> None:
    """Writes the page.

    Args:
        model: whose prototypes are named.
        dataset: where the images are.
        found: the entries to show, with their reasons.
        out: the HTML file.
        total: how many regions are suspicious in all.
        shortcuts: what misleads the model; None = not looked for.
    """
    names, colours = dataset.classes.names, [css(colour) for colour in dataset.classes.colours]
    places = {name: index for index, name in enumerate(dataset.names)}
    entries = []
    for number, one in enumerate(found, 1):
        sample, region = dataset[places[one.image]], one.region
        entries.append(
            {
                "number": number,
                "image": one.image,
                "label": names[region.label],
                "label_colour": colours[region.label],
                "suggested": names[region.suggested],
                "suggested_colour": colours[region.suggested],
                "score": f"{region.score:.2f}",
                "pixels": region.pixels,
                "place": f"rows {region.box[0]}-{region.box[2] - 1}, columns {region.box[1]}-{region.box[3] - 1}",
                "photo": data_uri(outlined(sample.colours, region), "jpeg", SIDE),
                "patches": [patch(dataset, places, reason) for reason in one.patches],
                "prototypes": [prototype(model, reason) for reason in one.prototypes],
            }
        )
    page = environment().get_template("review.html.j2")
    html = page.render(
        title=f"Labels of {len(dataset)} images",
        entries=entries,
        shortcuts=None if shortcuts is None else shortcut_rows(model, shortcuts, names),
        total=total,
        images=len(dataset),
        version=__version__,
    )
    write(out, html.encode(), "page")


def outlined(image: Tensor, region: Region, around: float = AROUND) -> Tensor:
    """The surroundings of a region with its border drawn: uint8 (3, h, w); ``around`` times its larger side of them."""
    height, width = image.shape[-2:]
    y0, x0, y1, x1 = region.box
    margin = int(max(around * max(y1 - y0, x1 - x0), (LEAST - min(y1 - y0, x1 - x0)) / 2))
    top, left = max(0, y0 - margin), max(0, x0 - margin)
    bottom, right = min(height, y1 + margin), min(width, x1 + margin)
    inside = torch.zeros(height, width, dtype=torch.uint8)
    region.fill(inside, 1)
    part, within = image[:, top:bottom, left:right].clone(), inside[top:bottom, left:right] > 0
    part[:, ~within] = (part[:, ~within].float() * 0.55).round().to(torch.uint8)
    thick = max(1, round(max(part.shape[-2:]) / 150))
    for steps, colour in ((2 * thick, DARK), (thick, RIM)):  # both, so that it is seen on any ground
        grown = torch.nn.functional.max_pool2d(within[None, None].float(), 2 * steps + 1, 1, steps)[0, 0] > 0
        part[:, grown & ~within] = torch.tensor(colour, dtype=torch.uint8)[:, None]
    return part


def patch(dataset: SegmentationDataset, places: Mapping[str, int], reason: Reason) -> dict[str, Any]:
    """A training patch in words and as a picture."""
    assert reason.image is not None
    assert reason.box is not None
    image = dataset[places[reason.image]].colours
    words = f"{reason.share:.0%} of the vote: {reason.image}"
    return {"words": words, "picture": image_uri(patch_picture(image, reason.box), "jpeg", 128)}


def prototype(model: Segmenter, reason: Reason) -> dict[str, Any]:
    """A prototype in words, with its patch."""
    assert reason.prototype is not None
    assert model.head.bank is not None
    owner = model.classes.names[int(model.head.bank.class_of[reason.prototype])]
    words = f"prototype {reason.prototype} of {owner}: {reason.share:+.2f}"
    return {"words": words, "picture": picture_of(model, reason.prototype)}


def picture_of(model: Segmenter, number: int | None) -> str | None:
    """Data URI of a prototype's patch where the model has a picture of it."""
    if number is None or model.provenance is None:
        return None
    try:
        picture = stored_patch(model, model.provenance.sources[number])
    except DataError:  # told by whoever reads the model for its own sake
        picture = None
    return None if picture is None else image_uri(picture, "jpeg", 128)


def shortcut_rows(model: Segmenter, shortcuts: Sequence[Shortcut], names: Sequence[str]) -> list[dict[str, Any]]:
    """What misleads a model: a line each, with the patch of a prototype."""
    return [{"words": one.words(names), "picture": picture_of(model, one.prototype)} for one in shortcuts[:SHORTCUTS]]


def list_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """Some columns of rows as CSV with a heading; a cell that a spreadsheet would take for a formula gets a quote."""
    import csv
    import io

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = [" ".join(map(str, row[key])) if isinstance(row[key], list) else str(row[key]) for key in columns]
        writer.writerow([f"'{value}" if value[:1] in "=+@" else value for value in values])
    return buffer.getvalue().encode()


def is_list(folder: Path, holds: Sequence[str], columns: Sequence[str]) -> bool:
    """Whether a page, a CSV with these columns and a JSON file, of these names in this order, are all ours."""
    page, table, file = (folder / name for name in holds)
    if not (page.is_file() and table.is_file() and file.is_file()):
        return False
    with table.open("rb") as lines:
        heading = lines.readline(200)
    return marked(page, "page") and marked(file, "review") and heading.strip() == ",".join(columns).encode()
