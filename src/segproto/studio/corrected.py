"""Masks with what was decided about them, in a new folder: whole or not at all, and never over the originals."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from segproto.api.review import apply_decisions
from segproto.data.base import Sample, SegmentationDataset
from segproto.data.build import build_dataset
from segproto.errors import ConfigError, DataError, SegprotoError
from segproto.evaluation.review.decisions import Decision, decision_of, require_inside
from segproto.files import fresh_folder
from segproto.runs.folder import run_of
from segproto.runs.settings import data_config
from segproto.studio.decisions import Decided
from segproto.studio.state import Side


def require_unchanged(decision: Decision, sample: Sample) -> None:
    """Sees that the region in the mask is labelled as it was when it was listed.

    Raises:
        DataError: it is not.
    """
    require_inside(decision, sample.mask)
    marked = sample.mask.new_zeros(sample.mask.shape)
    decision.region.fill(marked, 1)
    if not bool((sample.mask[marked == 1] == decision.region.label).all()):
        raise DataError(f"{decision.image}: the mask is not as it was when it was looked at; look for labels anew")


def write_masks(
    side: Side, splits: Sequence[SegmentationDataset], decided: Sequence[Decided], out: Path
) -> dict[str, Any]:
    """Writes the masks of all images.

    Args:
        side: the run.
        splits: whose masks are written.
        decided: decisions about regions that changed since are left out, and that is said.
        out: the folder, which is not there yet.

    Returns:
        ``ended``, words for the person, and ``then``, the command that trains on the masks.

    Raises:
        SegprotoError: no decision can be followed, an image is not there, or the disk refuses.
    """
    left = [one for one in decided if fits(one, splits)]
    stale = len(decided) - len(left)
    if all(one.verdict == "dismiss" for one in left):
        raise ConfigError("nothing was written: the masks that decisions would change are not as they were then")
    split: Literal["train", "val"] = "val" if splits[0].split == "val" else "train"
    with fresh_folder(out, ["**"], lambda folder: False) as part:
        entries = [one.model_dump() for one in left]
        changed = apply_decisions(side.target, entries, out=part, split=split, overrides=side.data_overrides)
    of = " and ".join(f"{len(one)} {one.split}" for one in splits)
    words = f"The masks of {of} images are in {out.absolute()}; {len(changed)} of them changed."
    if stale:
        words += f" {stale} of {len(decided)} decisions were left out: their masks are not as they were then."
    return {"ended": words, "then": how_to_train(side, out.absolute())}


def fits(one: Decided, splits: Sequence[SegmentationDataset]) -> bool:
    """Whether a mask is as it was when it was decided about; an image that is missing is told by who writes."""
    for dataset in splits:
        if one.image in dataset.names:
            try:
                sample = dataset[list(dataset.names).index(one.image)]
                require_unchanged(decision_of(one.model_dump(), dataset.classes), sample)
            except DataError:
                return False
    return True


def how_to_train(side: Side, out: Path) -> str:
    """The command that trains on masks; for a data set that reads no others than its own, the settings that do."""
    run, labels = run_of(side.target), f"data.labels={out}"
    try:
        source = build_dataset(data_config(side.target, {}, [*side.data_overrides, labels]), "train").label_source
        reads = source is not None and Path(source).resolve().is_relative_to(out.resolve())
    except SegprotoError:
        reads = False
    if not reads or run is None:
        return f"segproto train RECIPE data.name=folder data.root=FOLDER_OF_IMAGES data.classes=FILE {labels}"
    words = ["segproto", "train", str(run / "recipe.yaml"), *side.overrides, labels, "--out", f"{run}-{out.name}"]
    return shlex.join(words)
