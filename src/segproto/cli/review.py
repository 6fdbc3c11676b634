"""``review``: what to look at next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from segproto.cli.arguments import DataValues, Device, Json, Quiet, Stage
from segproto.cli.options import settings
from segproto.cli.show import print_json, print_table, say
from segproto.errors import ConfigError

SHOWN = 10  # labels
SHORTCUTS = 10


def review(
    target: Annotated[Path, typer.Argument(help="A run or a model folder; for --next also a recipe.")],
    values: DataValues = None,
    out: Annotated[Path, typer.Option(help="Folder for the page and the lists.")] = Path("review"),
    split: Annotated[str, typer.Option(help="Whose masks: train or val.")] = "train",
    unlabelled: Annotated[
        Path | None, typer.Option("--next", help="Folder of images: which of them to label next. Nothing else is done.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Regions on the page (50), or images to label (20).")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="New folder for the masks, in which the regions on the page are void.")
    ] = None,
    shortcuts: Annotated[bool, typer.Option(help="Also look for what misleads the model.")] = True,
    stage: Stage = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """List what misleads a model, and labels that the other images contradict, with the reason."""
    from segproto import api

    if unlabelled is not None:
        given = {"--masks": masks, "--split": None if split == "train" else split}
        if both := [option for option, value in given.items() if value is not None]:
            raise ConfigError(f"{both[0]} is about labels, and --next about images without; leave one out")
        chosen = api.next_to_label(
            target,
            unlabelled,
            out=out,
            count=count or 20,
            stage=stage,
            overrides=settings(values),
            device=device,
            quiet=quiet,
        )
        tell_next(chosen, as_json)
        return
    if split not in ("train", "val"):
        raise ConfigError(f"--split {split}: expected train or val")
    result = api.review(
        target,
        out=out,
        split=cast(Literal["train", "val"], split),
        count=count or 50,
        masks=masks,
        shortcuts=shortcuts,
        stage=stage,
        overrides=settings(values),
        device=device,
        quiet=quiet,
    )
    if as_json:
        print_json(result)
        return
    for number, one in enumerate((result["shortcuts"] or ())[:SHORTCUTS], 1):
        say(f"{number}. {one['words']}")
    if result["shortcuts"] == []:
        say("Nothing was found that misleads the model.")
    rows = [
        (entry["image"], entry["label"], entry["suggested"], str(entry["pixels"]), f"{entry['score']:.2f}")
        for entry in result["labels"][:SHOWN]
    ]
    print_table(["image", "label", "rather", "pixels", "contradicted by"], rows)
    say(f"{len(result['labels'])} suspicious regions in {result['images']} images. Open {result['page']}")
    if masks is not None:
        say(f"{len(result['changed'])} masks with void regions, all others unchanged: data.labels={masks.absolute()}")


def tell_next(result: dict[str, Any], as_json: bool) -> None:
    """Prints which images to label."""
    if as_json:
        print_json(result)
        return
    rows = [
        (one["image"], f"{one['gain']:.4f}", f"{one['unlike']:.2f}", f"{one['uncertainty']:.2f}")
        for one in result["next"][:SHOWN]
    ]
    print_table(["image", "covers", "unlike", "uncertain"], rows)
    for name, words in result["unreadable"].items():
        say(f"left out: {name}: {words}", err=True)
    say(f"{len(result['next'])} of {result['images']} images to label next. Open {result['page']}")
