"""``review``: what to look at next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from segproto.cli.arguments import DataValues, Device, Json, Quiet, Stage, Target
from segproto.cli.options import settings
from segproto.cli.show import print_json, print_table, say
from segproto.errors import ConfigError

SHOWN = 10  # labels
SHORTCUTS = 10


def review(
    target: Target,
    values: DataValues = None,
    out: Annotated[Path, typer.Option(help="Folder for the page and the lists.")] = Path("review"),
    split: Annotated[str, typer.Option(help="Whose masks: train or val.")] = "train",
    count: Annotated[int, typer.Option(min=1, help="Regions on the page.")] = 50,
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

    if split not in ("train", "val"):
        raise ConfigError(f"--split {split}: expected train or val")
    result = api.review(
        target,
        out=out,
        split=cast(Literal["train", "val"], split),
        count=count,
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
    rows = [
        (entry["image"], entry["label"], entry["suggested"], str(entry["pixels"]), f"{entry['score']:.2f}")
        for entry in result["labels"][:SHOWN]
    ]
    print_table(["image", "label", "rather", "pixels", "contradicted by"], rows)
    say(f"{len(result['labels'])} suspicious regions in {result['images']} images. Open {result['page']}")
    if masks is not None:
        say(f"{len(result['changed'])} masks with void regions, all others unchanged: data.labels={masks.absolute()}")
