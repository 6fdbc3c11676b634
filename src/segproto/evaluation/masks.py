"""Scores any folder of mask files against ground truth: ours or not, predictions or pseudo masks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segproto.data.archives import Member
from segproto.data.base import ClassTable
from segproto.data.coarse import refuse_names
from segproto.data.images import read_indices
from segproto.data.instances import CITYSCAPES_SIZES, LABELS, instance_file, read_instances
from segproto.data.labels import LabelMap
from segproto.data.layouts.finding import Finding
from segproto.data.pairs import read_list
from segproto.data.palette import default_colours
from segproto.data.published_sets import shipped
from segproto.data.suffixes import MASK_SUFFIXES, is_picture
from segproto.data.tiff_pages import pages_in
from segproto.errors import DataError
from segproto.evaluation.tally import report
from segproto.evaluation.truth import renamed
from segproto.files.walking import paths_below
from segproto.metrics.instances import instance_iou, instance_shares
from segproto.metrics.segmentation import confusion_matrix
from segproto.prototypes.labels import IGNORE_INDEX


def score_masks(
    masks: Path,
    gt: Path,
    *,
    classes: ClassTable | LabelMap | int | None = None,
    list_file: Path | None = None,
    void: int = IGNORE_INDEX,
    coarse: bool = False,
    suffixes: tuple[str, str] = ("", ""),
    own_values: bool = False,
    annotated: Finding | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Scores the masks under one folder against those of the same name under another.

    A name is the path below the folder without its suffix. 255 in a scored mask means "undecided" and counts as wrong.
    Cityscapes' ``gtFine/val`` may be given as it is: its label ids are read as the 19 classes, names are those of the
    frames (``CITY/CITY_SEQ_FRAME``, with or without ``_leftImg8bit``), with instances there is the instance IoU.

    Args:
        masks: folder of masks to score: classes 0..C-1 and 255, one channel or palette indices.
        gt: folder of true masks; the value ``void`` and 255 are left out of the count.
        classes: names, or how many; a label map translates the values of ``gt`` (a ``classes.yaml``); None = up to
            the largest value found.
        list_file: the names to score, one per line; None = every mask in ``gt``.
        void: the void value of ``gt``.
        coarse: allow Cityscapes' coarse labels as ``gt``, whose scores are not comparable.
        suffixes: ends of the stems of scored and of true masks that do not belong to the name, as in ``_mask``.
        own_values: the scored masks hold the values of ``classes``, too (``predict --values classes``).
        annotated: the annotations in ``gt`` that the true masks are drawn from, in the place of mask files.
        progress: called with (images done, images).

    Returns:
        As :func:`segproto.evaluation.validate.validate`, with ``undecided`` (pixels of 255 where the truth is a class)
        and ``without_gt`` (names of scored masks that have no ground truth and were not counted).

    Raises:
        DataError: in one line, for a missing folder or partner, unequal sizes, a foreign value, or coarse labels.
    """
    scored, truth = mask_files(masks, "--masks", suffixes[0]), true_masks(gt, suffixes[1], annotated)
    scored = renamed(scored, truth) if annotated is not None else scored
    if official := {frame(name): path for name, path in truth.items() if path.name.endswith(LABELS)}:
        scored, truth = {frame(name): path for name, path in scored.items()}, official
        classes = shipped("cityscapes") if classes is None else classes
    names = read_list(list_file) if list_file is not None else list(truth)
    for folder, files in ((masks, scored), (gt, truth)):
        missing = [name for name in names if name not in files]
        if missing:
            raise DataError(
                f"{folder}: {len(missing)} of {len(names)} masks are missing, first {missing[0]!r}; "
                "score a part with --list FILE (one name per line); where names end differently, as in x_mask.png, say "
                "so: --masks-suffix, --gt-suffix"
            )
    if not coarse:
        refuse_names("\n".join(str(truth[name]) for name in names), f"--gt {gt}", "give --coarse")
    labels = classes if isinstance(classes, LabelMap) else None
    if own_values and labels is None:
        raise DataError("masks in their own values need a classes.yaml that says what these mean: --classes FILE")
    table = classes.table if isinstance(classes, LabelMap) else classes
    num_classes = table.num_classes if isinstance(table, ClassTable) else table
    size = max(256, num_classes or 0)
    counts, void_pixels = torch.zeros(size, size, dtype=torch.int64), 0
    shares, with_instances = torch.zeros(2, size, dtype=torch.float64), 0
    for done, name in enumerate(names, 1):
        own = own_values and labels is not None
        prediction = (
            labels.read(scored[name]).long().numpy() if own and labels else read_mask(scored[name], num_classes)
        )
        target = labels.read(truth[name]).numpy() if labels else read_mask(truth[name], num_classes, void)
        if prediction.shape != target.shape:
            raise DataError(
                f"{scored[name]} is {_size(prediction)} pixels, {truth[name]} is {_size(target)} (height x width); "
                "expected masks at the ground truth's own size"
            )
        valid = target != IGNORE_INDEX
        void_pixels += int((~valid).sum())
        counts += confusion_matrix(torch.from_numpy(prediction[valid]), torch.from_numpy(target[valid]), size, -1)
        if file := instance_file(truth[name]):
            shares += found_instances(prediction, target, file, size)
            with_instances += 1
        if progress is not None:
            progress(done, len(names))
    if num_classes is None:
        used = (counts.sum(0) + counts.sum(1))[:IGNORE_INDEX].nonzero()
        num_classes = int(used.max()) + 1 if len(used) else 1
    if not isinstance(table, ClassTable):
        table = ClassTable(tuple(str(i) for i in range(num_classes)), default_colours(num_classes))
    undecided = counts[:num_classes, IGNORE_INDEX].clone()
    counts[:, IGNORE_INDEX] = 0
    counts = counts[:num_classes, :num_classes]
    sizes = torch.tensor([CITYSCAPES_SIZES.get(name, float("nan")) for name in table.names], dtype=torch.float64)
    complete = with_instances == len(names) and not sizes.isnan().all()
    iiou = instance_iou(shares[:, :num_classes], counts, sizes) if complete else None
    return {
        **report(counts, table, undecided, void=void_pixels, instance_iou=iiou),
        "images": len(names),
        "labels": str(gt),
        "undecided": int(undecided.sum()),
        "without_gt": [name for name in scored if name not in truth],
    }


def true_masks(gt: Path, suffix: str, annotated: Finding | None) -> dict[str, Any]:
    """Name to true mask: files, or what is drawn from annotations."""
    if annotated is not None:
        return {item.name: item.mask for item in annotated.masked}
    return mask_files(gt, "--gt", suffix)


def mask_files(folder: Path, option: str, suffix: str = "") -> dict[str, Any]:
    """Name to file of all masks below a folder whose stems end in ``suffix``, which is no part of the name.

    A TIFF stack stands for its pages, ``NAME/page1`` and so on.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; set {option} to a folder of mask files")
    paths = [path for path in paths_below(folder) if is_picture(path, MASK_SUFFIXES)]
    if not paths:
        raise DataError(f"{folder}: holds no mask file ({', '.join(sorted(MASK_SUFFIXES))})")
    names = {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
    ending = {name.removesuffix(suffix): path for name, path in names.items() if name.endswith(suffix)}
    if not ending:
        raise DataError(f"{folder}: none of {len(names)} masks ends in {suffix!r}, for example {next(iter(names))!r}")
    files: dict[str, Any] = {}
    for name, path in ending.items():
        pages = pages_in(path, "all")
        files |= {name if page is path else f"{name}/page{page.number}": page for page in pages}
    return files


def frame(name: str) -> str:
    """A frame of Cityscapes by the name of its picture, its labels or its prediction."""
    return re.sub(r"_(leftImg8bit|pred|gt(Fine|Coarse)_labelIds|labelIds)$", "", name)


def found_instances(prediction: NDArray[np.int64], target: NDArray[Any], file: Path | Member, size: int) -> Tensor:
    """:func:`segproto.metrics.instances.instance_shares` of one image, with the instances of a file.

    Raises:
        DataError: naming the file: unreadable or of another size.
    """
    instances = read_instances(file)
    if instances.shape != target.shape:
        raise DataError(f"{file}: is {_size(instances.numpy())} pixels, its labels {_size(target)}")
    return instance_shares(torch.from_numpy(prediction), torch.from_numpy(target), instances, size)


def read_mask(path: Path, num_classes: int | None, void: int = IGNORE_INDEX) -> NDArray[np.int64]:
    """Class indices with 255 for void."""
    values = read_indices(path)
    values[values == void] = IGNORE_INDEX
    limit = IGNORE_INDEX if num_classes is None else num_classes
    wrong = values[((values >= limit) & (values != IGNORE_INDEX)) | (values < 0)]
    if wrong.size:
        raise DataError(
            f"{path}: value {wrong[0]} in {wrong.size} pixels is no class 0..{limit - 1} and not void ({void}); "
            "set --void VALUE, or give the classes.yaml that names the values"
        )
    return values


def _size(mask: NDArray[Any]) -> str:
    return f"{mask.shape[0]} x {mask.shape[1]}"
