"""The verb ``train``: one run, its seeds, and the run that follows on its masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.errors import ConfigError
from segproto.files import place

if TYPE_CHECKING:
    from segproto.training.runner import RunResult

PathLike = str | Path


def train(
    recipe: PathLike | None = None,
    *,
    out: PathLike | None = None,
    resume: PathLike | None = None,
    start: PathLike | None = None,
    devices: int | None = None,
    data_changed: bool = False,
    overrides: Sequence[str] = (),
    quiet: bool = False,
    **sections: Any,
) -> RunResult:
    """Trains one model.

    Args:
        recipe: a shipped recipe's name (``scaleproto/em``) or a YAML file.
        out: the run folder.
        resume: an interrupted run folder to continue exactly; excludes everything else but ``data_changed``, ``quiet``
            and overrides of what does not change the result (:data:`segproto.training.folder.FREE`).
        start: a run or model whose weights the run begins from.
        devices: processes on this machine.
        data_changed: with ``resume``: go on although the data are not those the run began with.
        overrides: ``key=value`` settings, applied last; ``then.key=value`` are those of the run that follows, which is
            completed and checked (:mod:`segproto.runs.following`) before this one begins.
        quiet: no progress.
        **sections: parts of the recipe, as in ``data={"root": "data/em"}, train={"seed": 1}``.

    Raises:
        ConfigError: unknown recipe or key (the nearest is named), or a value out of range.
    """
    from segproto.api.edit import record_of_resumed
    from segproto.runs.following import following
    from segproto.runs.settings import resolve
    from segproto.training.recipe import resolved
    from segproto.training.runner import run

    if resume is not None:
        if recipe is not None or out is not None or start is not None or devices is not None or sections:
            raise ConfigError("resume takes the run folder only; its recipe.yaml holds everything else")
        folder = place(resume, "--resume")
        recipe = folder / "recipe.yaml"
        method, config = resolve(recipe, {}, overrides)
        next_run = None if (folder / "then" / "recipe.yaml").is_file() else following(recipe, method, config, folder)
    else:
        if data_changed:
            raise ConfigError("data_changed is for resume: a new run takes the data as they are")
        if recipe is None or out is None:
            raise ConfigError("expected a recipe and out=DIR, as in train('scaleproto/scenes', out='runs/scenes')")
        folder = place(out)
        chosen = {"start": None if start is None else str(start), "devices": devices}
        given = {key: value for key, value in chosen.items() if value is not None}
        sections = {**sections, "train": {**sections.get("train", {}), **given}}
        method, config = resolve(recipe, sections, overrides)
        next_run = following(recipe, method, config, folder)
        if next_run is not None:
            config = config.model_copy(update={"then": resolved(next_run.recipe)})
    result = run(method, config, folder, resume=resume is not None, data_changed=data_changed, quiet=quiet)
    if resume is not None:
        record_of_resumed(folder, config, result.seconds, quiet)
    if next_run is None and config.then is not None and (folder / "then" / "recipe.yaml").is_file():
        return train(resume=folder / "then", quiet=quiet)  # only a resumed run gets here
    while next_run is not None:
        folder = folder / "then"
        result, next_run = run(next_run.method, next_run.recipe, folder, quiet=quiet), next_run.then
    return result


def train_seeds(
    recipe: PathLike, *, out: PathLike, seeds: Sequence[int] | None = None, **options: Any
) -> list[RunResult]:
    """:func:`train` once per seed, in ``out/seed1`` ...; without seeds once, in ``out``.

    Args: as in :func:`train`; ``seeds`` are values of ``train.seed``, ``out`` is the folder of all runs.
    """
    if not seeds:
        return [train(recipe, out=out, **options)]
    settings = list(options.pop("overrides", ()))
    return [
        train(recipe, out=place(out) / f"seed{seed}", overrides=[*settings, f"train.seed={seed}"], **options)
        for seed in seeds
    ]
