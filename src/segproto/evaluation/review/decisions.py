"""What a person decided about suspicious labels, as masks in a new folder: the originals stay as they are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from segproto.data.base import ClassTable, SegmentationDataset
from segproto.data.picture import MaskWriter
from segproto.errors import ConfigError, DataError
from segproto.evaluation.review.regions import Region
from segproto.files import fresh_files, require_all
from segproto.model.evidence import class_number
from segproto.model.outputs import value_table
from segproto.prototypes.labels import IGNORE_INDEX

Verdict = Literal["accept", "correct", "dismiss"]


@dataclass(frozen=True)
class Decision:
    """About one suspicious region.

    Attributes:
        image: name in the data set.
        region: as it was listed.
        verdict: ``accept``: the label is wrong, and nobody says what is right: the region becomes void; ``correct``:
            it becomes ``to``; ``dismiss``: the label is right and stays.
        to: a class by name or number; of ``correct`` alone, where None is the suggested one.
    """

    image: str
    region: Region
    verdict: Verdict
    to: int | str | None = None

    def value(self, classes: ClassTable) -> int | None:
        """What the region becomes; None = it stays.

        Raises:
            ConfigError: no such verdict, or no such class.
        """
        if self.verdict == "dismiss":
            return None
        if self.verdict == "accept":
            return IGNORE_INDEX
        if self.verdict != "correct":
            raise ConfigError(f"decision {self.verdict!r}: expected accept, correct or dismiss")
        to = class_number(classes.names, self.to)
        return self.region.suggested if to is None else to


def apply_decisions(datasets: Sequence[SegmentationDataset], decisions: Sequence[Decision], out: Path) -> list[str]:
    """Writes the masks of all images to a folder, with the decided regions changed.

    The masks hold what the data set's own files hold where these are numbers, so that ``data.labels=FOLDER`` is all
    that a training on them needs; else class indices, 255 = void. Splits whose masks lie in folders of their own have
    such folders here, too.

    Args:
        datasets: the splits whose masks are written, with the same classes; decisions may be about images of any, and
            of two images of one name are about that of the first.
        decisions: later ones win where regions overlap.
        out: the folder, which may not be that of the masks; a mask of ours in it is replaced. The masks appear in it
            when all are written: after an interruption it is as it was.

    Returns:
        Names of the images whose mask changed.

    Raises:
        ConfigError: an unknown image, verdict or class; or a file in the way. Nothing is written.
        DataError: a mask is no longer as large as when it was looked at.
    """
    by_image: dict[str, list[Decision]] = {}
    for decision in decisions:
        by_image.setdefault(decision.image, []).append(decision)
    names = {name for dataset in datasets for name in dataset.names}
    if unknown := sorted(set(by_image) - names):
        raise ConfigError(f"decision about {unknown[0]!r}: no image of the data is called so; did the images move?")
    classes = datasets[0].classes
    values = {id(one): one.value(classes) for one in decisions}
    refuse_originals(datasets, out)
    changed = []
    with fresh_files(out, "mask") as part:
        for dataset, folder in zip(datasets, folders_of(datasets, part), strict=True):
            for index, name in enumerate(dataset.names):
                mask = dataset[index].mask.long()
                before = mask.clone()
                for one in by_image.pop(name, []):
                    if (value := values[id(one)]) is not None:
                        require_inside(one, mask)
                        one.region.fill(mask, value)
                write_own_mask(folder / f"{name}.png", mask, classes)
                if not torch.equal(mask, before):
                    changed.append(name)
    return changed


def refuse_originals(datasets: Sequence[SegmentationDataset], out: Path) -> None:
    """Sees that no original mask or image, and no foreign file, would be written over.

    Raises:
        ConfigError: naming what is in the way.
    """
    for dataset, folder in zip(datasets, folders_of(datasets, out), strict=True):
        source = dataset.label_source
        if source is not None and out.resolve().is_relative_to(Path(source).resolve()):
            raise ConfigError(f"{out}: is the folder of the original masks ({source}); name a new one")
        images = [path for path in map(dataset.path, range(len(dataset))) if isinstance(path, Path)]
        require_all((folder / f"{name}.png" for name in dataset.names), "mask", images)


def folders_of(datasets: Sequence[SegmentationDataset], out: Path) -> list[Path]:
    """Where the masks of each split go below a folder: as they lie in the data, so that ``data.labels`` finds them."""
    roots = [mask_root(dataset) for dataset in datasets]
    known = [root for root in roots if root is not None]
    if len(known) == len(roots) and len(set(known)) > 1:
        above = os.path.commonpath(known)
        return [out / root.relative_to(above) for root in known]
    if len({name for dataset in datasets for name in dataset.names}) < sum(map(len, datasets)):
        return [out / dataset.split for dataset in datasets]
    return [out for _ in datasets]


def mask_root(dataset: SegmentationDataset) -> Path | None:
    """The folder of a split's masks, below which they are called as the images are; None if they are no files."""
    if dataset.label_source is None:
        return None
    source, inner = Path(dataset.label_source), os.path.commonpath([os.path.dirname(name) for name in dataset.names])
    depth = len(Path(inner).parts)
    return source.parents[depth - 1] if depth and source.parts[-depth:] == Path(inner).parts else source


def require_inside(decision: Decision, mask: Tensor) -> None:
    """Sees that a region lies in the mask that it was found in.

    Raises:
        DataError: the image is smaller now.
    """
    _, _, bottom, right = decision.region.box
    if bottom > mask.shape[0] or right > mask.shape[1]:
        raise DataError(
            f"{decision.image}: its mask is {mask.shape[1]} x {mask.shape[0]} pixels, and a region ends at column "
            f"{right}, row {bottom}: the data changed; review them again"
        )


def own_values(classes: ClassTable) -> Tensor | None:
    """(256 or more,) what a mask file holds for each class, where these are numbers that void (255) is none of."""
    if classes.values is None or any(isinstance(value, str) for value in classes.values):
        return None
    table = value_table(classes, "classes")
    return None if table is None or IGNORE_INDEX in table[: classes.num_classes].tolist() else table


def write_own_mask(path: Path, mask: Tensor, classes: ClassTable) -> None:
    """A mask (H, W) of class indices and 255 as a PNG of the data set's own numbers."""
    table = own_values(classes)
    stored = mask if table is None else table[mask]
    wide = int(stored.max()) > IGNORE_INDEX or classes.num_classes > IGNORE_INDEX
    with MaskWriter(path, mask.shape[0], mask.shape[1], wide) as writer:
        writer.write(stored.to(torch.int32))


def voided(found: Mapping[str, Sequence[Region]]) -> list[Decision]:
    """The decisions that set all these regions to void; regions by the name of their image."""
    return [Decision(name, region, "accept") for name, regions in found.items() for region in regions]


def decision_of(entry: Mapping[str, Any], classes: ClassTable) -> Decision:
    """A decision from an entry of the list (:meth:`segproto.evaluation.review.labels.Suspicion.to_json`).

    Raises:
        ConfigError: it names no region of an image, or a class that there is not.
    """
    try:
        box = tuple(int(value) for value in entry["box"])
        y0, x0, y1, x1 = box
        inside = Region.from_runs(entry["runs"], (y0, x0, y1, x1))
        if min(box) < 0:
            raise ValueError("negative")
        label, suggested = (class_number(classes.names, entry[key]) for key in ("label", "suggested"))
        name, verdict = str(entry["image"]), entry["verdict"]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"decision {dict(entry)!s:.80}: expected an entry of labels.json (image, box, runs, label, suggested) with "
            f"a verdict ({error})"
        ) from None
    assert label is not None
    assert suggested is not None
    region = Region(label, suggested, float(entry.get("score", 0)), int(inside.sum()), (y0, x0, y1, x1), inside)
    return Decision(name, region, verdict, entry.get("to"))
