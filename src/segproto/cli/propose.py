"""``propose``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segproto.cli.arguments import Device, Json, Quiet
from segproto.cli.options import settings
from segproto.cli.show import first_process, print_json, say


def propose(
    images: Annotated[Path, typer.Argument(help="An image or a folder of images.")],
    out: Annotated[Path, typer.Option(help="Folder for masks/, overlays/ and, for one image, index.html.")],
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="encoder.weights=FILE proposals.size=480 ...")
    ] = None,
    device: Device = None,
    devices: Annotated[
        int | None,
        typer.Option(
            "--devices",
            "--processes",
            min=1,
            help="Processes that share the images, one per GPU; torchrun and srun say it. One has all cores.",
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Group each image's pixels into mask proposals, without labels; run it again to go on where it stopped."""
    from segproto import api

    result = api.propose(images, out=out, overrides=settings(values), devices=devices, device=device, quiet=quiet)
    if not first_process():
        return
    if as_json:
        print_json(result)
    elif "page" in result:
        say(f"{result['proposals']} proposals. Open {result['page']}")
    else:
        say(f"{result['images']} masks in {result['masks']}, pictures of them in {result['overlays']}")
