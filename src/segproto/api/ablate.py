"""Ablations as commands: many thresholds of one model, and recipes trained with and without one ingredient."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segproto.errors import ConfigError
from segproto.files import place, require, write_json
from segproto.places import cache_root

PathLike = str | Path


def ablate_thresholds(
    target: PathLike,
    *,
    thresholds: Sequence[float] | None = None,
    stage: str | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
    out: PathLike | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """One grouped model re-scored at many thresholds of its group weights, in one pass over the validation images.

    The readout stays as it is: what ``stages.threshold.refit`` would make up for is seen as lost.

    Args:
        target: a run or model folder.
        thresholds: in 0..1; default ``segproto.evaluation.analyses.thresholds.THRESHOLDS``.
        stage: of a run; default: the stage before thresholding if it left a model, else the last model, of which the
            weights below its own threshold are gone.
        overrides: ``data.key=value`` settings.
        device: as in :func:`segproto.evaluate`.
        out: JSON file, with a picture beside it; default ``RUN/evaluation/thresholds.json``.
        quiet: no progress.

    Returns:
        ``rows`` (tau, prototypes, prototypes_used, group_average, miou, accuracy), ``stage``, ``images``, ``file``.
    """
    from segproto.data.build import build_dataset
    from segproto.evaluation.analyses.thresholds import THRESHOLDS, plot_thresholds, sweep_thresholds
    from segproto.evaluation.rescore import EncoderFeatures
    from segproto.runs.folder import figures_file, keep, run_of
    from segproto.runs.models import ready
    from segproto.runs.settings import data_config
    from segproto.training.progress import Reporter

    run = run_of(Path(target))
    if stage is None and run is not None and (run / "stages" / "group_joint" / "model").is_dir():
        stage = "group_joint"
    file = figures_file(out, None if run is None else run / "evaluation" / "thresholds.json")
    if file is None:
        raise ConfigError(f"{target}: not in a run folder; name a JSON file to write with --out")
    picture, kind = file[0].with_suffix(".png"), None if out is None else "picture"
    require(picture, kind)
    folder = run if run is not None and stage is not None else Path(target)
    model = ready(folder, stage, device)
    dataset = build_dataset(data_config(Path(target), {}, overrides), "val")
    features = EncoderFeatures(model, dataset, cache_root())
    with Reporter(active=not quiet).bar("thresholds", len(dataset)) as bar:
        rows = sweep_thresholds(features, THRESHOLDS if thresholds is None else thresholds, bar)
    figures = {"rows": rows, "stage": stage, "images": len(dataset), "command": sys.argv}
    figures = keep(figures, file)
    plot_thresholds(rows, picture, kind)
    return figures


def ablate_entropy(recipe: PathLike, *, out: PathLike, **options: Any) -> dict[str, Any]:
    """Trains a recipe with groups as it is and with the entropy loss off, and compares the two.

    Args: as :func:`compare_variants`.
    """
    stages = [
        name for name, value in stage_settings(recipe, options.get("overrides", ())).items() if value.get("entropy")
    ]
    if not stages:
        raise ConfigError(f"{recipe}: no stage of it has an entropy weight above 0, so there is nothing to switch off")
    off = [f"stages.{name}.entropy=0" for name in stages]
    return compare_variants(recipe, {"recipe": [], "without-entropy": off}, out=out, **options)


def ablate_scales(recipe: PathLike, *, out: PathLike, **options: Any) -> dict[str, Any]:
    """Trains a multi-scale recipe as it is and with its branches summed to one scale, with equally many prototypes.

    Args: as :func:`compare_variants`.
    """
    from segproto.runs.settings import resolve

    config = resolve(recipe, {}, options.get("overrides", ()))[1]
    encoder, model = config.encoder, getattr(config, "model", None)
    if encoder.scale_rates is None or model is None or not hasattr(model, "prototypes"):
        raise ConfigError(f"{recipe}: has no scales to compare (expected encoder.neck=aspp, encoder.fusion=concat)")
    single = ["encoder.fusion=sum", f"model.prototypes={model.prototypes * len(encoder.rates)}"]
    return compare_variants(recipe, {f"{len(encoder.rates)}-scales": [], "1-scale": single}, out=out, **options)


def ablate_starts(recipe: PathLike, *, out: PathLike, **options: Any) -> dict[str, Any]:
    """Trains a recipe as it is, and without what readies its prototypes and groups: one variant for each that it has.

    ``random-groups`` begin at random instead of at the readout of prototypes; ``raw-warmup`` lets the linear warm-up's
    classifier read the features as they are.

    Args: as :func:`compare_variants`.
    """
    stages, variants = stage_settings(recipe, options.get("overrides", ())), dict[str, list[str]](recipe=[])
    if stages.get("group_seed", {}).get("start") == "readout":
        variants["random-groups"] = ["stages.group_seed.start=random"]
    warmup = stages.get("linear", {})
    if warmup.get("gain") and warmup.get("steps"):
        variants["raw-warmup"] = ["stages.linear.gain=null"]
    if len(variants) == 1:
        raise ConfigError(
            f"{recipe}: neither stages.group_seed.start=readout nor a warm-up with a stages.linear.gain, so nothing to "
            "leave out"
        )
    return compare_variants(recipe, variants, out=out, **options)


def stage_settings(recipe: PathLike, overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The resolved ``stages`` of a recipe."""
    from segproto.runs.settings import resolve
    from segproto.training.recipe import resolved

    stages: dict[str, dict[str, Any]] = resolved(resolve(recipe, {}, overrides)[1]).get("stages", {})
    return stages


def compare_variants(
    recipe: PathLike,
    variants: Mapping[str, Sequence[str]],
    *,
    out: PathLike,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains variants of a recipe, each with the same seeds, and compares them.

    Runs that are finished in ``out`` already are taken as they are; interrupted ones go on.

    Args:
        recipe: a shipped recipe's name or a YAML file.
        variants: name to the settings that make it.
        out: folder of all runs, ``NAME/seedN``.
        overrides: settings of all variants.
        seeds: values of ``train.seed``.
        quiet: no progress.

    Returns:
        As :func:`segproto.compare`, with ``group_overlap`` (None without groups); also in ``out/ablation.json``.
    """
    from segproto.api.compare import compare_runs, mean_and_spread
    from segproto.runs.settings import resolve
    from segproto.training.runner import run

    file = place(out) / "ablation.json"
    require(file, "figures")
    for name, settings in variants.items():
        for seed in seeds:
            folder = Path(out) / name / f"seed{seed}"
            method, config = resolve(recipe, {}, [*overrides, *settings, f"train.seed={seed}"])
            run(method, config, folder, resume=(folder / "recipe.yaml").exists(), quiet=quiet)
    result = compare_runs([Path(out) / name for name in variants])
    for row, (name, settings) in zip(result["rows"], variants.items(), strict=True):
        overlap = mean_and_spread([group_overlap(Path(folder)) for folder in row["folders"]])
        row |= {"name": name, "settings": list(settings), "group_overlap": overlap}
    write_json(file, result | {"command": sys.argv}, "figures", str)
    return result | {"file": str(file)}


def group_overlap(run: Path) -> float | None:
    """IoU of where the groups of a class are active, on a run's validation images; None without groups."""
    from segproto.data.build import build_dataset
    from segproto.evaluation.interpretability.config import InterpretabilityConfig
    from segproto.evaluation.interpretability.run import interpret
    from segproto.runs.models import ready
    from segproto.runs.settings import data_config

    config = InterpretabilityConfig(metrics=("group_overlap",))
    metrics = interpret(ready(run, None, None), build_dataset(data_config(run, {}, ()), "val"), config)
    value: float | None = metrics["metrics"]["group_overlap"]["value"]
    return value
