"""The verb ``evaluate``: accuracy of a model, and on request its interpretability metrics."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.errors import ConfigError, DataError
from segproto.files import place, require_all

if TYPE_CHECKING:
    from segproto.data.base import SegmentationDataset
    from segproto.evaluation.protocol import Protocol
    from segproto.model.precision import Precision
    from segproto.model.segmenter import Segmenter
    from segproto.refine.crf_settings import CrfSettings
    from segproto.training.progress import Reporter
    from segproto.training.sharing import Share

PathLike = str | Path


def evaluate(
    target: PathLike,
    *,
    stage: str | None = None,
    split: str = "val",
    overrides: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    window: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crf: str | None = None,
    save: PathLike | None = None,
    test: PathLike | None = None,
    names: PathLike | None = None,
    device: str | None = None,
    devices: int | None = None,
    out: PathLike | None = None,
    ood_labels: PathLike | None = None,
    interpretability: bool = False,
    precision: Precision = "auto",
    quiet: bool = False,
) -> dict[str, Any]:
    """Accuracy at the labels' own size, without augmentation; on request also the interpretability metrics.

    Args:
        target: a run or model folder; without ``data`` and overrides the run's own data are used.
        stage: of a run: evaluate the model this stage left.
        split: ``train`` or ``val``.
        overrides: ``data.key=value`` and ``interpretability.key=value`` settings.
        data: the same as a mapping.
        window: side of a sliding window in pixels; bounds memory.
        scales: input scales averaged.
        flip: average with the mirrored image.
        crf: also score the masks after a dense CRF of this published set, ``A`` .. ``E``; images are then seen whole.
        save: folder for the masks, in ``<split>`` and, after a CRF, ``<split>-crf``.
        test: images without labels whose masks are written too, seen the same way, to ``test`` and ``test-crf``.
        names: a text file with the names of the images to score, one per line; with ``test`` those of it to write.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None = cuda if there is one.
        devices: processes that share the images, each on a GPU of its own (or on the CPU); the further ones repeat this
            command. Started by ``torchrun`` or ``srun`` it takes theirs. All return the same figures, the first writes.
        out: JSON file. Default, for a run's last model or a ``stage`` of it, on its own data and without window,
            scales, flip and CRF: ``RUN/evaluation/<split>[-<stage>].json``; in all other cases none.
        ood_labels: folder of masks ``NAME.png`` of some of these images, 1 = unknown, 0 = known, 255 = void: also how
            well each score of the model tells which is which, the images seen whole.
        interpretability: measure it, too (implied by ``data.parts`` among the settings), and keep the figures of a
            run's own data in ``RUN/evaluation/<split>[-<stage>]-interpretability.json``.
        precision: of the network that makes the scored masks: ``32-true``, ``bf16-mixed``, ``16-mixed``, or ``auto``:
            on a GPU as it was trained, on a CPU float32. Figures of another one than ``auto`` are not kept in the run.
        quiet: no progress.

    Returns:
        ``miou``, ``accuracy``, ``per_class``, ``confusion``, ``images``, ``seconds``, ``command``, ``file``,
        ``precision`` (of the network), ``trained_in`` (the precision of the training; None if the model does not say)
        and, if asked for, ``crf`` (the figures after it), ``test_images`` (how many), ``ood``
        (:func:`segproto.evaluation.unknown.score_unknown`) and ``interpretability``.

    Examples:
        >>> import segproto
        >>> scores = segproto.evaluate("runs/em", quiet=True)
        >>> 0 <= scores["miou"] <= 1
        True
    """
    from segproto.api.interpretability import (
        changes_data,
        data_overrides,
        interpret_model,
        interpretability_config,
        wanted,
    )
    from segproto.data.build import build_dataset
    from segproto.evaluation.protocol import Protocol
    from segproto.evaluation.validate import validate
    from segproto.model.crf_masks import crf_settings
    from segproto.model.precision import autocast, chosen_precision
    from segproto.runs.folder import evaluation_file, figures_file, keep
    from segproto.runs.models import ready
    from segproto.runs.settings import data_config
    from segproto.training.progress import Reporter, reporting
    from segproto.training.sharing import shared

    target = Path(target)
    if test is not None and save is None:
        raise ConfigError("masks of a test part take --save DIR --test IMAGES, and --list FILE if not of all of them")
    after, saved = crf_settings(crf), None if save is None else place(save, "--save")
    folder, tested = (None, Path()) if saved is None else (saved / split, saved / "test")
    jobs = {} if test is None else masks_of_test(Path(test), tested, names)
    require_all(with_crf(jobs.values(), tested, after), "mask", jobs)
    measures = interpretability_config(overrides) if interpretability or wanted(overrides) else None
    config = data_config(target, data or {}, data_overrides(overrides))
    if config.labels is None:
        raise DataError(
            f"{target}: data.labels = null, its images have no masks: nothing to score; name images that have, "
            "for example data.root=DIR data.labels=labels"
        )
    asked = Protocol(window=window, scales=tuple(scales), flip=flip, crf=after)
    own = not data and not changes_data(overrides) and (names is None or test is not None)
    kept = evaluation_file(target, split, stage) if own and asked.whole and precision == "auto" else None
    file = figures_file(out, kept)
    with (
        shared(devices, device, target, "run the command again") as share,
        reporting(Reporter(active=share.first and not quiet)) as reporter,
    ):
        model, dataset = ready(target, stage, share.device), build_dataset(config, split)
        if names is not None and test is None:
            dataset = listed(dataset, Path(names))
        protocol = replace(asked, input_size=config.input_size)
        if asked.plain and config.input_size is None and not says_input_size(data or {}, overrides):
            protocol = replace(asked, input_size=model.input_size)
        if folder is not None:
            require_masks(folder, dataset, after)
        part: dict[str, Any] = {"rank": share.rank, "world": share.world, "reduce": share.sum}
        with reporter.bar("evaluate", len(dataset)) as bar, autocast(model, precision):
            figures = validate(model, dataset, protocol, progress=bar, save_masks=folder, **part)
        figures |= {
            "command": sys.argv,
            "split": split,
            "stage": stage,
            "precision": chosen_precision(model, precision),
            "trained_in": model.card.get("precision"),
        }
        if jobs:
            write_test(model, dict(list(jobs.items())[share.rank :: share.world]), tested, protocol, precision)
            figures["test_images"] = len(jobs)
        file = file if share.first else None
        more: dict[str, Any] = {}
        if ood_labels is not None:
            more["ood"] = unknown_pixels(model, dataset, Path(ood_labels), reporter, share)
        if measures is None:
            return keep(figures | more, file) if out is not None else keep(figures, file) | more
        measured = interpret_model(
            model, target, dataset, config, measures, stage=stage, keep_file=own and share.first, share=share
        )
    more["interpretability"] = measured
    return keep(figures | more, file) if out is not None else keep(figures, file) | more


def unknown_pixels(
    model: Segmenter, dataset: SegmentationDataset, masks: Path, reporter: Reporter, share: Share
) -> dict[str, Any]:
    """How well the model's scores tell unknown pixels, and images that show some."""
    from segproto.evaluation.rescore import EncoderFeatures
    from segproto.evaluation.unknown import score_unknown
    from segproto.places import cache_root

    part: dict[str, Any] = {"rank": share.rank, "world": share.world, "gather": share.gather}
    with reporter.bar("unknown pixels", len(dataset)) as bar:
        return score_unknown(EncoderFeatures(model, dataset, cache_root()), masks, bar, **part)


def says_input_size(data: Mapping[str, Any], overrides: Sequence[str]) -> bool:
    """Whether somebody said what the model is to see: null too is an answer."""
    return "input_size" in data or any(text.partition("=")[0].strip() == "data.input_size" for text in overrides)


def listed(dataset: SegmentationDataset, names: Path) -> SegmentationDataset:
    """The images of a data set that a text file lists, in the file's order.

    Raises:
        DataError: a listed image is not there.
    """
    from segproto.data.pairs import read_list
    from segproto.data.subset import keep_only

    places = {name: index for index, name in enumerate(dataset.names)}
    wanted = read_list(names)
    missing = [name for name in wanted if name not in places]
    if missing:
        raise DataError(
            f"{names}: {len(missing)} of its {len(wanted)} images are not in the {dataset.split} images, the first "
            f"{missing[0]!r}; --split or data.split say which images are read"
        )
    return keep_only(dataset, [places[name] for name in wanted])


def require_masks(folder: Path, dataset: SegmentationDataset, crf: CrfSettings | None) -> None:
    """Sees that no mask to save would take the place of an image or a true mask, or of a file that is not ours.

    Raises:
        ConfigError: naming the first that would.
    """
    masks = [folder / f"{name}.png" for name in dataset.names]
    images = [path for path in map(dataset.path, range(len(dataset))) if path is not None]
    truth = Path(dataset.label_source or os.devnull).resolve()
    true = [mask for mask in masks if mask.exists() and mask.resolve().is_relative_to(truth)]
    require_all(with_crf(masks, folder, crf), "mask", [*images, *true])


def with_crf(masks: Iterable[Path], folder: Path, crf: CrfSettings | None) -> list[Path]:
    """The masks in a folder, and with a CRF those beside it."""
    from segproto.model.crf_masks import crf_folder

    plain = list(masks)
    return plain if crf is None else [*plain, *(crf_folder(folder) / mask.relative_to(folder) for mask in plain)]


def masks_of_test(images: Path, out: Path, names: str | Path | None) -> dict[Path, Path]:
    """Image files and the masks to write of them: all, or those a text file lists.

    Raises:
        DataError: a listed image is not there.
    """
    from segproto.data.pairs import read_list
    from segproto.runs.folder import images_and_masks
    from segproto.training.progress import current

    pairs = images_and_masks(images, out, current().line)
    if names is None:
        return dict(pairs)
    by_name = {mask.relative_to(out).with_suffix("").as_posix(): (file, mask) for file, mask in pairs}
    listed = read_list(Path(names))
    missing = [name for name in listed if name not in by_name]
    if missing:
        raise DataError(f"{images}: {len(missing)} of the images in {names} are not there, the first {missing[0]!r}")
    return dict(by_name[name] for name in listed)


def write_test(
    model: Segmenter, jobs: Mapping[Path, Path], out: Path, protocol: Protocol, precision: Precision
) -> None:
    """Writes masks of images without labels, seen as the scored ones were; those after a CRF to ``<folder>-crf``.

    Args:
        model: on any device.
        jobs: image files to mask files.
        out: the folder these are in.
        protocol: how the scored images were seen.
        precision: in which.
    """
    from segproto.data.picture import look_at
    from segproto.model.crf_masks import crf_folder, masks_with_crf, write_mask
    from segproto.model.outputs import Outputs, predict_to_files
    from segproto.model.precision import autocast
    from segproto.training.progress import current

    with current().bar("test", len(jobs)) as bar, autocast(model, precision):
        for done, (file, mask) in enumerate(jobs.items(), 1):
            picture = look_at(file, rule=model.encoder.pixels)
            views = protocol.views(picture.height, picture.width)
            if protocol.crf is None:
                predict_to_files(model, file, Outputs(mask), **views)
            else:
                scales, flip = views["scales"], protocol.flip
                plain, after = masks_with_crf(model, file, protocol.crf, scales=scales, flip=flip)
                write_mask(plain, mask)
                write_mask(after, crf_folder(out) / mask.relative_to(out))
            bar(done, len(jobs))
