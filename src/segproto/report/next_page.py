"""The page of ``review --next``: images to label, each with why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segproto.data.base import SegmentationDataset
from segproto.evaluation.review.teaching import Choice
from segproto.files import write
from segproto.report.page import environment
from segproto.report.pictures import data_uri
from segproto.version import __version__

SIDE = 260  # longest side of a picture
SHOWN = 200  # images on the page; the lists hold all


def next_page(
    dataset: SegmentationDataset, chosen: Sequence[tuple[int, Choice]], result: Mapping[str, Any], out: Path
) -> None:
    """Writes the page.

    Args:
        dataset: the folder.
        chosen: index of each image and why it was chosen, in order.
        result: of :func:`segproto.next_to_label`.
        out: the HTML file.
    """
    entries = [
        {
            "image": dataset.names[index],
            "words": reason(one, result),
            "photo": data_uri(dataset[index].colours, "jpeg", SIDE),
        }
        for index, one in chosen[:SHOWN]
    ]
    page = environment().get_template("next.html.j2")
    html = page.render(title="What to label next", entries=entries, result=result, version=__version__)
    write(out, html.encode(errors="backslashreplace"), "page")


def reason(one: Choice, result: Mapping[str, Any]) -> str:
    """Why an image was chosen."""
    said = [f"covers {one.gain:.2%}"]
    if result["by"] == "model":
        said.append(f"uncertain {one.uncertainty:.0%}")
    if result["known"]:
        said.append(f"unlike the labelled ones {one.unlike:.0%}")
    return ", ".join(said)
