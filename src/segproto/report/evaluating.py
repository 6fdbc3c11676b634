"""``evaluate``: accuracy of a model, and on request its interpretability metrics."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segproto.data.build import build_dataset
from segproto.data.pairs import read_list
from segproto.errors import ConfigError, DataError
from segproto.evaluation.validate import seen_size, validate
from segproto.model.crf_masks import crf_folder, crf_settings, masks_with_crf, write_mask
from segproto.model.images import look_at
from segproto.model.predict import predict_to_png
from segproto.model.segmenter import Segmenter
from segproto.refine.crf import CrfSettings
from segproto.report.interpret import changes_data, data_overrides, interpret_model, wanted
from segproto.report.models import ready
from segproto.report.runs import evaluation_file, images_and_masks, keep
from segproto.report.settings import data_config
from segproto.training.progress import current


def evaluate(
    target: Path,
    *,
    stage: str | None,
    split: str,
    overrides: Sequence[str],
    data: Mapping[str, Any] | None,
    window: int | None,
    scales: Sequence[float],
    flip: bool,
    crf: str | None,
    save: str | Path | None,
    test: str | Path | None,
    names: str | Path | None,
    device: str | None,
    out: str | Path | None,
    interpretability: bool,
) -> dict[str, Any]:
    """See :func:`segproto.api.evaluate`."""
    if (test is not None and save is None) or (names is not None and test is None):
        raise ConfigError("masks of a test part take --save DIR --test IMAGES, and --list FILE if not of all of them")
    settings = crf_settings(crf)
    tested = Path(save or "") / "test"
    jobs = {} if test is None else masks_of_test(Path(test), tested, names)
    config = data_config(target, data or {}, data_overrides(overrides))
    if config.labels is None:
        raise DataError(
            f"{target}: data.labels = null, its images have no masks: nothing to score; name images that have, "
            "for example data.root=DIR data.labels=labels"
        )
    model = ready(target, stage, device)
    dataset = build_dataset(config, split)
    with current().bar("evaluate", len(dataset)) as bar:
        seen: dict[str, Any] = {"window": window, "scales": tuple(scales), "flip": flip}
        folder = None if save is None else Path(save) / split
        figures = validate(
            model, dataset, input_size=config.input_size, crf=settings, progress=bar, save_masks=folder, **seen
        )
    figures |= {"command": sys.argv, "split": split, "stage": stage}
    if jobs:
        write_test(model, jobs, tested, config.input_size, settings, **seen)
        figures["test_images"] = len(jobs)
    own = not data and not changes_data(overrides)
    plain = own and window is None and tuple(scales) == (1.0,) and not flip and crf is None
    if not (interpretability or wanted(overrides)):
        return keep(figures, out or (evaluation_file(target, split, stage) if plain else None))
    measured = interpret_model(model, target, dataset, config, overrides, stage=stage, keep_file=own)
    if out is not None:
        return keep(figures | {"interpretability": measured}, out)
    return keep(figures, evaluation_file(target, split, stage) if plain else None) | {"interpretability": measured}


def masks_of_test(images: Path, out: Path, names: str | Path | None) -> dict[Path, Path]:
    """Image files and the masks to write of them: all, or those a text file lists.

    Raises:
        DataError: a listed image is not there.
    """
    pairs = images_and_masks(images, out)
    if names is None:
        return dict(pairs)
    by_name = {mask.relative_to(out).with_suffix("").as_posix(): (file, mask) for file, mask in pairs}
    listed = read_list(Path(names))
    missing = [name for name in listed if name not in by_name]
    if missing:
        raise DataError(f"{images}: {len(missing)} of the images in {names} are not there, the first {missing[0]!r}")
    return dict(by_name[name] for name in listed)


def write_test(
    model: Segmenter,
    jobs: dict[Path, Path],
    out: Path,
    input_size: int | tuple[int, int] | None,
    crf: CrfSettings | None,
    **seen: Any,
) -> None:
    """Writes masks of images without labels, seen as the scored ones were; those after a CRF to ``<folder>-crf``.

    Args:
        model: on any device.
        jobs: image files to mask files.
        out: the folder these are in.
        input_size: see :func:`segproto.evaluation.validate.validate`.
        crf: of the CRF; None = none.
        seen: window, scales, flip.
    """
    with current().bar("test", len(jobs)) as bar:
        for done, (file, mask) in enumerate(jobs.items(), 1):
            if input_size is not None:
                picture = look_at(file)
                seen["scales"] = [seen_size((picture.height, picture.width), input_size)]
            if crf is None:
                predict_to_png(model, file, mask, **seen)
            else:
                plain, after = masks_with_crf(model, file, crf, scales=seen["scales"], flip=seen["flip"])
                write_mask(plain, mask)
                write_mask(after, crf_folder(out) / mask.relative_to(out))
            bar(done, len(jobs))
