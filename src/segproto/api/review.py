"""The verb ``review``: what to look at next in a data set, with the reason."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segproto.errors import ConfigError, DataError
from segproto.files import fresh_folder, place, require_folder, write, write_json
from segproto.places import cache_root

if TYPE_CHECKING:
    from segproto.data.base import SegmentationDataset
    from segproto.evaluation.review.regions import Region
    from segproto.evaluation.review.shortcuts import Shortcut
    from segproto.model.cache import FeatureCache
    from segproto.model.segmenter import Segmenter
    from segproto.training.progress import Reporter

PathLike = str | Path
log = logging.getLogger(__name__)
COLUMNS = ("image", "box", "label", "suggested", "score", "pixels")
LIST = "labels.json"
HOLDS = ("index.html", "labels.csv", LIST)


def review(
    target: PathLike,
    *,
    out: PathLike,
    split: Literal["train", "val"] = "train",
    count: int = 50,
    masks: PathLike | None = None,
    shortcuts: bool = True,
    stage: str | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
    quiet: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """What misleads a model, and regions of masks whose label patches of other images contradict; the worst first.

    Args:
        target: a run or model folder.
        out: folder for ``index.html`` (the ``count`` first), ``labels.csv`` and ``labels.json`` (all of them).
        split: ``train`` or ``val``.
        count: regions on the page, with reasons.
        masks: a new folder for the masks of all images, in which the ``count`` first regions are void. With
            ``data.labels=FOLDER`` a training uses them.
        shortcuts: also look for prototypes and surroundings that mislead, in images of both splits.
        stage: of a run: the model this stage left.
        overrides: ``data.key=value`` settings.
        device: as in :func:`segproto.evaluate`.
        quiet: no progress.
        progress: called with (what is done, images done, images) instead of a bar.

    Returns:
        ``shortcuts`` (:class:`segproto.evaluation.review.shortcuts.Shortcut`, each with ``words``; None = not looked
        for), ``labels`` (``image``, ``box``, ``label``, ``suggested``, ``score``, ``pixels``, ``runs``; the first
        ``count`` with ``patches`` and ``prototypes``), ``images``, ``split``, ``changed`` (masks with a region set to
        void), ``seconds``, ``command``.

    Raises:
        DataError: no data, moved images, no labels, or other classes than the model's.
        ConfigError: a file is in the way.
    """
    from segproto.evaluation.review.decisions import apply_decisions, refuse_originals, voided
    from segproto.evaluation.review.labels import LabelReview
    from segproto.report.review_page import is_list, list_text, review_page
    from segproto.runs.models import ready
    from segproto.training.progress import Reporter, reporting

    begin, out = time.perf_counter(), place(out)
    if count < 1:
        raise ConfigError(f"count = {count}: expected at least 1")
    ours = partial(is_list, holds=HOLDS, columns=COLUMNS)
    require_folder(out, HOLDS, ours)
    if masks is not None:
        require_apart(out, masks := place(masks, "--masks"))
    model = ready(target, stage, device).eval()
    datasets = labelled_splits(Path(target), model, overrides, split, writes=masks is not None)
    dataset = datasets[0]
    if masks is not None:
        refuse_originals(datasets, Path(masks))
    with reporting(Reporter(active=not quiet, tell=progress)) as reporter:
        misleading = found_shortcuts(model, datasets, reporter) if shortcuts else None
        with reporter.bar("look at images", len(dataset)) as bar:
            looking = LabelReview(model, dataset, cached_features(model, dataset, bar), bar)
        with reporter.bar("compare labels", len(dataset)) as bar:
            found = looking.find(progress=bar)
        with reporter.bar("find reasons", len(found[:count])) as bar:
            listed = []
            for one in found[:count]:
                listed.append(looking.explained(one))
                bar(len(listed), len(found[:count]))
    rows = [one.to_json(dataset.classes.names) for one in [*listed, *found[count:]]]
    regions: dict[str, list[Region]] = {}
    for one in listed:
        regions.setdefault(one.image, []).append(one.region)
    changed = [] if masks is None else apply_decisions(datasets, voided(regions), Path(masks))
    names = dataset.classes.names
    result = {
        "shortcuts": None if misleading is None else [one.to_json(names) for one in misleading],
        "labels": rows,
        "images": len(dataset),
        "split": split,
        "changed": changed,
        "seconds": round(time.perf_counter() - begin, 3),
        "command": sys.argv,
    }
    with fresh_folder(out, HOLDS, ours) as folder:
        review_page(model, dataset, listed, folder / "index.html", total=len(found), shortcuts=misleading)
        write(folder / "labels.csv", list_text(rows, COLUMNS), None)
        write_json(folder / LIST, result, "review")
    return result | {"page": str(out / "index.html")}


def require_apart(out: Path, masks: Path) -> None:
    """Sees that masks are not written into the list's folder, which is replaced as a whole, nor the list among masks.

    Raises:
        ConfigError: one of the two lies in the other.
    """
    first, second = out.resolve(), masks.resolve()
    if first.is_relative_to(second) or second.is_relative_to(first):
        raise ConfigError(f"--out {out} and --masks {masks}: one lies in the other; name two folders beside each other")


def found_shortcuts(
    model: Segmenter, datasets: Sequence[SegmentationDataset], reporter: Reporter
) -> list[Shortcut] | None:
    """What misleads the model, the costliest first; None where one of the splits cannot be read."""
    from segproto.evaluation.review.context import AROUND
    from segproto.evaluation.review.shortcuts import ShortcutSearch

    splits = {one.split: one for one in datasets}
    if set(splits) != {"train", "val"}:
        return None
    search = ShortcutSearch(model, datasets[0].classes)
    with reporter.bar("look for shortcuts", 1) as bar:
        search.look_through("train", splits["train"], partial(bar.part, "training images"))
        search.look_through("val", splits["val"], partial(bar.part, "validation images"))
        contexts = search.contexts(splits["train"], AROUND, partial(bar.part, "surroundings"))
        return search.find(contexts, partial(bar.part, "without each prototype"))


def cached_features(
    model: Segmenter, dataset: SegmentationDataset, progress: Callable[[int, int], None] | None = None
) -> FeatureCache | None:
    """Backbone features kept in ``$SEGPROTO_CACHE``; None without that folder, or where the backbone was trained."""
    from segproto.model.cache import FeatureCache, cached

    root, encoder = cache_root(), model.encoder
    if root is None or not encoder.backbone_frozen or encoder.decoder or encoder.config.msc:
        return None
    flips = cached(encoder, dataset, root, flips=True)  # as a training leaves them
    device = next(model.parameters()).device
    return FeatureCache.open(encoder, dataset, root, flips=flips, device=device, progress=progress)


def labelled_splits(
    target: Path, model: Segmenter, overrides: Sequence[str], split: str, *, writes: bool
) -> list[SegmentationDataset]:
    """The data of a run: the asked split first, then the other one if it can be read.

    Where masks are written (``writes``) a line says that those of the other split are not.

    Raises:
        DataError: no data, no labels, or other classes than the model's.
    """
    from segproto.data.build import SPLITS, build_dataset
    from segproto.evaluation.same_classes import require_same_classes
    from segproto.runs.settings import data_config

    config = data_config(target, {}, overrides)
    if not config.has_masks:
        raise DataError(
            f"{target}: its images have no masks, so there are no labels to review; name images that have, "
            "as in data.root=DIR data.labels=labels"
        )
    if model.found_categories:
        raise DataError(
            f"{target}: its categories were found without labels, so they say nothing of labels; review with a model "
            "that was trained on masks"
        )
    first = build_dataset(config, split)
    require_same_classes(model, first)
    others = []
    for name in SPLITS:
        if name != split:
            try:
                others.append(build_dataset(config, name))
            except DataError as error:  # perhaps a set of one split alone
                if writes:
                    log.warning("no masks of the %s images are written: %s", name, error)
    return [first, *others]


def apply_decisions(
    target: PathLike,
    decisions: Sequence[Mapping[str, Any]],
    *,
    out: PathLike,
    split: Literal["train", "val"] = "train",
    overrides: Sequence[str] = (),
) -> list[str]:
    """Masks with what a person decided about suspicious labels, in a new folder; the originals stay as they are.

    Args:
        target: the run that was reviewed, or its model.
        decisions: entries of ``labels`` as :func:`review` returns them (or ``labels.json`` holds them), each with
            ``verdict``: ``accept`` (the label is wrong: void), ``correct`` (it becomes ``to``, a class by name or
            number, else the suggested one) or ``dismiss`` (it stays).
        out: the folder; ``data.labels=FOLDER`` trains on it.
        split: that was reviewed; of two images of one name in both, decisions are about the one in it.
        overrides: ``data.key=value`` settings.

    Returns:
        Names of the images whose mask changed.

    Raises:
        ConfigError: an unknown image, class or verdict, a region that is none, or a file in the way.
    """
    from segproto.evaluation.review import decisions as made
    from segproto.runs.models import ready

    out = place(out)
    model = ready(target, None, "cpu")
    datasets = labelled_splits(Path(target), model, overrides, split, writes=True)
    parsed = [made.decision_of(entry, datasets[0].classes) for entry in decisions]
    return made.apply_decisions(datasets, parsed, out)
