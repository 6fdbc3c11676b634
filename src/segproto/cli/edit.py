"""``edit`` and ``ablate``: what if."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from segproto.cli.arguments import DataValues, Device, Json, Quiet, Recipe, RunsFolder, Seeds, Stage, Target, Values
from segproto.cli.options import numbers, settings
from segproto.cli.results import plain, spread
from segproto.cli.show import percent, print_json, print_table, say
from segproto.errors import ConfigError


def edit(
    target: Target,
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="data.root=DIR ...; with --train any setting.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the edited model (with --train: of the run).")] = None,
    drop: Annotated[str | None, typer.Option(help="Remove these prototypes, as in 17,42.")] = None,
    forbid: Annotated[
        list[str] | None, typer.Option(metavar="GROUP:PROTO", help="A group does without it: 7:42 or car/2:42.")
    ] = None,
    merge: Annotated[
        list[str] | None, typer.Option(metavar="PROTO:OTHER", help="The first becomes the second: 5:2.")
    ] = None,
    reweight: Annotated[
        list[str] | None, typer.Option(metavar="GROUP:FACTOR", help="A group counts so much more or less: car/2:0.5.")
    ] = None,
    merge_duplicates: Annotated[bool, typer.Option("--merge-duplicates", help="Equal prototypes become one.")] = False,
    within: Annotated[
        float | None, typer.Option(min=0, help="Squared distance of duplicates; default 1e-4 (needs the flag above).")
    ] = None,
    renormalise: Annotated[
        bool, typer.Option("--renormalise", help="Give lost weights to the rest of the group; else they become 0.")
    ] = False,
    forget: Annotated[str | None, typer.Option(help="Prototypes marked as misleading (needs --train).")] = None,
    train: Annotated[bool, typer.Option("--train", help="With --forget: train so that they do not come back.")] = False,
    add: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A memory remembers these images and masks, too.")
    ] = None,
    remove_image: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A memory forgets this training image.")
    ] = None,
    no_score: Annotated[bool, typer.Option("--no-score", help="Do not score the validation images.")] = False,
    stage: Stage = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Remove prototypes (or images of a memory, or add some) and see what changes."""
    from segproto import api

    if out is None:
        raise ConfigError("expected --out: an edit writes a new model and leaves the old one as it is")
    if (forget is not None) != train:
        raise ConfigError("--forget and --train go together: forgetting trains; to edit without training use --drop")
    if within is not None and not merge_duplicates:
        raise ConfigError("--within says what counts as a duplicate; it needs --merge-duplicates")
    result = api.edit(
        target,
        out=out,
        drop=numbers(drop, "--drop") or (),
        forbid=forbid or (),
        merge=merge or (),
        reweight=reweight or (),
        merge_duplicates=merge_duplicates,
        within=within,
        renormalise=renormalise,
        forget=numbers(forget, "--forget") or (),
        add=add,
        remove_images=remove_image or (),
        score=not no_score,
        stage=stage,
        overrides=settings(values),
        device=device,
        quiet=quiet,
    )
    if as_json:
        print_json(result)
    else:
        print_change(result, out)


def print_change(result: dict[str, Any], out: Path) -> None:
    """The classes that changed, the means, and what was done."""
    if result["miou"] is not None:
        rows = [changed(row["name"], row) for row in result["per_class"]]
        rows.append(changed("mean (mIoU)", result["miou"]))
        rows.append(changed("pixel accuracy", result["accuracy"]))
        print_table(["class", "before %", "after %", "change"], rows)
    count = result["prototypes"]
    words = "; ".join(result["edits"])
    words = words if len(words) <= 300 else words[:300] + " ..."
    say(f"{words}. {count['before']} prototypes before, {count['after']} now.")
    for row in result.get("forgotten", []):
        say(
            f"Forgotten patch of {row['class']} #{row['prototype']}: the prototype most like it is now "
            f"#{row['nearest']}, {row['times_radius']:.2f} times as far as what counts as that patch."
        )
    cached = ""
    if result["miou"] is not None:
        cached = f", {result['images_from_cache']} of {result['images']} images from the cache"
    say(f"{result['seconds']:.1f} s{cached}. Model in {out}, figures in {result['file']}")


def changed(name: str, row: dict[str, Any]) -> tuple[str, str, str, str]:
    """One line of the table; the change in points."""
    points = "-" if row["change"] is None else f"{100 * row['change']:+.2f}"
    return name, percent(row["before"]), percent(row["after"]), points


def thresholds(
    target: Target,
    values: DataValues = None,
    at: Annotated[str | None, typer.Option(help="Thresholds, as in 0,0.05,0.1; default: ten from 0 to 0.3.")] = None,
    stage: Annotated[str | None, typer.Option(help="Default: the stage before thresholding.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file; default: RUN/evaluation/thresholds.json.")] = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Re-score a grouped model at many thresholds of its group weights."""
    from segproto import api

    result = api.ablate_thresholds(
        target,
        thresholds=None if at is None else decimals(at, "--at"),
        stage=stage,
        overrides=settings(values),
        device=device,
        out=out,
        quiet=quiet,
    )
    if as_json:
        print_json(result)
        return
    rows = [
        (f"{row['tau']:g}", str(row["prototypes_used"]), f"{row['group_average']:.2f}", percent(row["miou"]))
        for row in result["rows"]
    ]
    print_table(["threshold", "prototypes used", "in a group", "mIoU %"], rows)
    say(f"written to {result['file']}, with a picture beside it")


def decimals(text: str, option: str) -> list[float]:
    """``0,0.05,0.1`` to numbers."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option} {text}: expected numbers between commas, as in 0,0.05,0.1") from error


def ablation(name: str, words: str) -> Callable[..., None]:
    """A command that trains a recipe with and without something, by ``api.ablate_NAME``."""

    def command(
        recipe: Recipe,
        out: RunsFolder,
        values: Values = None,
        seeds: Seeds = "0",
        quiet: Quiet = False,
        as_json: Json = False,
    ) -> None:
        from segproto import api

        show(getattr(api, f"ablate_{name}")(recipe, out=out, **trained(values, seeds, quiet)), as_json)

    command.__name__, command.__doc__ = name, words
    return command


entropy = ablation("entropy", "Train with and without the entropy loss of groups, and compare.")
scales = ablation("scales", "Train with all scales and with one, at an equal number of prototypes, and compare.")
starts = ablation("starts", "Train with and without what readies prototypes and groups, and compare.")


def trained(values: list[str] | None, seeds: str, quiet: bool) -> dict[str, Any]:
    """How the variants are trained, as the verbs take it."""
    return {"overrides": settings(values), "seeds": numbers(seeds, "--seeds") or [0], "quiet": quiet}


def show(result: dict[str, Any], as_json: bool) -> None:
    """The variants side by side."""
    if as_json:
        print_json(result)
        return
    rows = [
        (row["name"], str(row["runs"]), spread(row["miou"]), *counts(row), spread(row["group_overlap"]))
        for row in result["rows"]
    ]
    print_table(["variant", "runs", "mIoU %", "prototypes", "used", "in a group", "overlap of groups %"], rows)
    say(f"written to {result['file']}")


def counts(row: dict[str, Any]) -> list[str]:
    """Prototypes, those in use, and members of a group."""
    return [plain(row[key]) for key in ("prototypes", "prototypes_used", "group_average")]
