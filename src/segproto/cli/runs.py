"""``train`` and ``quickstart``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from segproto.cli.arguments import Json, Quiet, Values
from segproto.cli.options import numbers, settings
from segproto.cli.results import tell_absent
from segproto.cli.show import first_process, percent, print_json, print_table, say
from segproto.errors import ConfigError

PRODUCTS = {"maps, train %": "cam_miou", "masks, train %": "mask_miou"}  # of methods that make them on the way


def train(
    recipe: Annotated[str | None, typer.Argument(help="Name (see: segproto recipes) or a YAML file.")] = None,
    values: Values = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to write.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this interrupted run, exactly.")] = None,
    start: Annotated[Path | None, typer.Option(help="Begin from the weights of this run or model.")] = None,
    seeds: Annotated[str | None, typer.Option(help="One run a seed, as in 1,2,3, in OUT/seed1 ...")] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="Processes (GPUs) on this machine.")] = None,
    data_changed: Annotated[
        bool, typer.Option("--data-changed-on-purpose", help="With --resume: go on with other data than before.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a model from a recipe."""
    from segproto import api

    if resume is not None:
        if (recipe and "=" not in recipe) or out or start or seeds or devices:
            raise ConfigError("--resume takes the run folder only; its recipe.yaml holds everything else")
        free = settings([recipe, *(values or ())] if recipe else values)  # the first setting stands in recipe's place
        results = [api.train(resume=resume, data_changed=data_changed, overrides=free, quiet=quiet)]
    elif data_changed:
        raise ConfigError("--data-changed-on-purpose is for --resume: a new run takes the data as they are")
    elif recipe is None or out is None:
        raise ConfigError("expected a recipe and --out, as in: segproto train scaleproto/scenes --out runs/scenes")
    else:
        chosen = numbers(seeds, "--seeds")
        results = api.train_seeds(
            recipe, out=out, seeds=chosen, start=start, devices=devices, overrides=settings(values), quiet=quiet
        )
    if not first_process():  # of several that repeat this command; their figures are the same
        return
    if as_json:
        print_json([asdict(result) for result in results])
        return
    figures = [results_of(result.figures, result.stages) for result in results]
    headings = [
        heading for heading in ("mIoU %", *PRODUCTS) if heading == "mIoU %" or any(heading in f for f in figures)
    ]
    rows = [
        (str(r.out), *(percent(f.get(heading)) for heading in headings), f"{r.seconds:.0f}")
        for r, f in zip(results, figures, strict=True)
    ]
    print_table(["run", *headings, "seconds"], rows)
    for result in results:
        tell_absent(f"{result.out}: mIoU", result.figures.get("per_class", ()))


def results_of(last: dict[str, Any], stages: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """The model's mIoU on validation images, and those of maps and masks made of the training images, by heading."""
    products = {heading: s[key] for heading, key in PRODUCTS.items() for s in stages.values() if key in s}
    return {"mIoU %": last.get("miou"), **products}


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for both runs and the report.")] = Path("runs/quickstart"),
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train on generated scenes, compare, explain, report."""
    from segproto import api

    result = api.quickstart(out=out, quiet=quiet)
    if as_json:
        print_json(result)
        return
    rows = [
        (name, percent(run["miou"]), str(run["prototypes"] or "-"), str(run["prototypes_used"] or "-"))
        for name, run in result["runs"].items()
    ]
    print_table(["method", "mIoU %", "prototypes", "used"], rows)
    say(f"{result['seconds']:.0f} s. Open {result['report']}")
