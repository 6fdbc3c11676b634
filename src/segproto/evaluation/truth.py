"""True masks that are no pictures: those that annotations of tools draw (COCO, labelme, CVAT ...)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from segproto.data.layouts.finding import Finding
from segproto.data.layouts.listing import list_files
from segproto.data.layouts.table import LAYOUTS
from segproto.data.suffixes import MASK_SUFFIXES
from segproto.errors import DataError

ANNOTATIONS = (".json", ".xml", ".txt", ".ndjson")


def annotated_truth(folder: Path) -> Finding | None:
    """The annotations that a folder or zip archive holds, if all its pictures are the images that they annotate.

    Raises:
        DataError: several kinds of annotations of the same images.
    """
    if not folder.exists():
        return None
    listing = list_files(folder)
    if not listing.ending(*ANNOTATIONS):
        return None
    findings = []
    for layout in LAYOUTS.values():
        try:
            finding = layout.looks(listing)
        except DataError:  # of another kind
            continue
        if finding is not None and finding.numbers is not None:
            findings.append(finding)
    masks = {file for path, file in listing.pictures() if path.suffix.lower() in MASK_SUFFIXES}
    findings = [finding for finding in findings if masks <= {item.image for item in finding.items}]
    if len(findings) > 1:
        names = " and ".join(finding.layout for finding in findings)
        raise DataError(f"{folder}: holds annotations as {names}; give a folder of one of them as --gt")
    return findings[0] if findings else None


def renamed(scored: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Scored masks under the names of the truth: where folders differ (``images/x``, ``x``) the last part decides."""
    last: dict[str, list[str]] = {}
    for name in scored:
        last.setdefault(name.rpartition("/")[2], []).append(name)
    wanted = list(names)
    ends = [name.rpartition("/")[2] for name in wanted]
    result = dict(scored)
    for name, end in zip(wanted, ends, strict=True):
        if name not in scored and len(last.get(end, [])) == 1 and ends.count(end) == 1:
            result[name] = result.pop(last[end][0])
    return result
