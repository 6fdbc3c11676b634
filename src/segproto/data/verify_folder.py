"""What ``data verify`` says of a user's own folder beyond each pair: its layout, values without classes, 0 and 255."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from segproto.data.layouts.counting import Progress, count_values
from segproto.data.layouts.finding import Finding
from segproto.data.layouts.proposal import CLOSE
from segproto.data.look import look_at_folder
from segproto.data.pairs import PairDataset
from segproto.data.portion import Portion
from segproto.data.tiff_pages import pages_in
from segproto.errors import DataError
from segproto.prototypes.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from segproto.data.base import SegmentationDataset
    from segproto.data.config import DataConfig

SETTING = "data."  # in lines that name a setting
VARIES = r"\S*[/\\]\S*|\d+|'[^']*'"  # paths, numbers, quoted names: what differs in lines of one kind
ALIKE = 3  # lines of one kind that are shown one by one
VALUES = 24  # values that are listed


def look(config: DataConfig) -> Finding | None:
    """What the folder is taken for; None where it cannot be said, which opening it then explains."""
    try:
        return look_at_folder(config)
    except DataError:
        return None


def values_line(config: DataConfig, finding: Finding, progress: Progress | None) -> str:
    """What the masks hold, where no ``classes.yaml`` says what it means."""
    masks = [mask for item in finding.masked for mask in pages_in(item.mask, config.pages)]
    values = count_values(masks, progress)
    if values.problems:
        return f"{len(values.problems)} of {len(masks)} masks cannot be read: {values.problems[0]}"
    words = {number: name for name, number in (finding.numbers or {}).items()}
    shares = []
    for value, _ in values.pixels.most_common(VALUES):
        name = f"#{value:06x}" if values.coloured else words.get(value, str(value))
        shares.append(f"{name} ({values.share(value):.1%})")
    kind = "labels" if finding.numbers is not None else "colours" if values.coloured else "values"
    more = f" and {len(values.pixels) - VALUES} others" if len(values.pixels) > VALUES else ""
    zero = zero_and_255(values.pixels) if not values.coloured and finding.numbers is None else ""
    return f"the masks hold {len(values.pixels)} {kind}: {', '.join(shares)}{more}{zero and '; ' + zero}"


def zero_and_255(values: Iterable[int]) -> str:
    """What to know of masks that hold 0 and 255 and nothing else; empty for others."""
    if {*values} != {0, IGNORE_INDEX}:
        return ""
    return "0 and 255 alone: 255 is void by convention; where it is the object, it must be a class: " + OBJECT


OBJECT = "classes: [{name: background, values: 0}, {name: foreground, values: 255}]"


def void_object(dataset: SegmentationDataset, present: Sequence[int], void: int) -> str | None:
    """The problem of masks with 0 and 255 of which 255 counts as void: one class is left, and every score is 100 %."""
    if not isinstance(dataset, PairDataset) or not void or sum(count > 0 for count in present) != 1:
        return None
    lookup = dataset.labels.lookup
    if dataset.labels.coloured or lookup.get(IGNORE_INDEX) != IGNORE_INDEX:
        return None
    others = [value for value, target in lookup.items() if target == IGNORE_INDEX and value != IGNORE_INDEX]
    if others:
        return None
    return (
        f"{dataset.split}: the masks hold one class and 255, which is void by convention and does not count: nothing "
        f"can be learned from one class. If 255 is the object, make it a class: {OBJECT}"
    )


def unlisted_note(dataset: SegmentationDataset, portion: Portion) -> str | None:
    """How many pixels hold a value that no class lists, where ``rest`` takes them, and how many are near none.

    Args:
        dataset: of pairs.
        portion: this process's masks; the counts are of all.
    """
    if not isinstance(dataset, PairDataset) or not dataset.labels.open:
        return None
    labels, other, far, total = dataset.labels, 0, 0, 0
    for index in portion.indices(len(dataset)):
        try:
            values, counts = np.unique(labels.stored(dataset.mask_path(index)), return_counts=True)
        except DataError:
            continue
        unlisted = np.array([int(value) not in labels.lookup for value in values])
        total += int(counts.sum())
        if unlisted.any():
            distances = labels.distances(values[unlisted].astype(np.int64)).min(1)
            other += int(counts[unlisted].sum())
            far += int(counts[unlisted][distances > CLOSE].sum())
    other, far, total = (sum(counts) for counts in zip(*portion.gather((other, far, total)), strict=True))
    if not other:
        return None
    taken = "the nearest listed one" if labels.nearest else "what rest says"
    return (
        f"{dataset.split}: {other:,} pixels ({other / total:.2%}) hold values that no class lists and count as "
        f"{taken}; {far:,} of them ({far / total:.2%}) are near none of the listed ones (more than {CLOSE} steps)"
    )


def gathered(lines: Sequence[str]) -> list[str]:
    """Lines that say the same of many files as one, with their count; the first of each kind stands as it is.

    Where a setting mends all of them (``data.bands`` ...), and nothing but the file differs, two are many.
    """
    kinds: dict[str, list[str]] = {}
    for line in lines:
        message = line.partition(": ")[2]  # what follows the file, whose name may hold anything
        kinds.setdefault(re.sub(VARIES, "*", message if SETTING in message else line), []).append(line)
    gathered_lines = []
    for alike in kinds.values():
        mended = SETTING in alike[0] and len({line.partition(": ")[2] for line in alike}) == 1
        if len(alike) <= (1 if mended else ALIKE):
            gathered_lines += alike
        else:
            gathered_lines.append(f"{alike[0]} (and {len(alike) - 1} files more with the same problem)")
    return gathered_lines
