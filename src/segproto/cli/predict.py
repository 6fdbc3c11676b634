"""``predict``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from segproto.cli.arguments import (
    Bands,
    Device,
    Devices,
    Flip,
    Form,
    Json,
    MaxPixels,
    Ood,
    Precision,
    Probabilities,
    Quiet,
    SeenScales,
    Stage,
    Target,
    Window,
)
from segproto.cli.options import bands as band_list
from segproto.cli.options import factors, value_kind
from segproto.cli.options import pages as page_choice
from segproto.cli.show import first_process, tell_files
from segproto.errors import UnreadableImages

if TYPE_CHECKING:
    from segproto.data.base import ClassTable


def predict(
    target: Target,
    images: Annotated[Path, typer.Argument(help="An image or a folder of images.")],
    out: Annotated[Path, typer.Option(help="Folder for the masks (PNG or GeoTIFF).")],
    stage: Stage = None,
    window: Window = None,
    scales: SeenScales = None,
    flip: Flip = False,
    device: Device = None,
    max_pixels: MaxPixels = None,
    ood: Ood = None,
    form: Form = "auto",
    mask_values: Annotated[
        str, typer.Option("--values", help="indices (0..C-1), or classes: the numbers or colours of your own masks.")
    ] = "indices",
    palette: Annotated[bool, typer.Option("--palette", help="Masks show the classes' colours.")] = False,
    overlay: Annotated[Path | None, typer.Option(help="Folder for the images in the classes' colours.")] = None,
    probabilities: Probabilities = None,
    probabilities_format: Annotated[
        str, typer.Option(help="npz, zarr (a store in chunks; extra zarr), or auto: npz, GeoTIFFs beside GeoTIFFs.")
    ] = "auto",
    bands: Bands = None,
    pages: Annotated[
        str | None,
        typer.Option(help="Of TIFF stacks: all (a mask with as many pages), or a number; default: as trained."),
    ] = None,
    devices: Devices = None,
    precision: Precision = "auto",
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Run the backbone through torch.compile: slower to start, for many images."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Masks that this model made there stay.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a mask for each image."""
    from segproto import api
    from segproto.runs.models import chosen_device, ready

    computing = str(chosen_device(device))
    model, kind = ready(target, stage, "cpu"), value_kind(mask_values)  # each of several processes has its own device
    unreadable: UnreadableImages | None = None
    try:
        written: Sequence[Path] = api.predict(
            model,
            images,
            out=out,
            window=window,
            scales=None if scales is None else factors(scales, "--scales"),
            flip=flip,
            max_pixels=max_pixels,
            ood=ood,
            form=form,  # type: ignore[arg-type]
            values=kind,
            palette=palette,
            overlay=overlay,
            probabilities=probabilities,
            probabilities_format=probabilities_format,  # type: ignore[arg-type]
            bands=band_list(bands),
            pages=page_choice(pages),
            device=computing,
            devices=devices,
            precision=precision,  # type: ignore[arg-type]
            compiled=compiled,
            resume=resume,
            quiet=quiet,
        )
    except UnreadableImages as error:
        unreadable, written = error, error.written
    if not first_process():
        return
    words = f"{len(written)} mask{'s' if len(written) != 1 else ''} in {out}: {holds(model.classes, kind)}"
    tell_files("masks", written, unreadable, words, as_json)


def holds(classes: ClassTable, kind: Literal["indices", "classes"], shown: int = 6) -> str:
    """What the numbers in masks mean, in words."""
    own = classes.values
    numbers = list(own) if kind == "classes" and own is not None else list(range(classes.num_classes))
    listed = [f"{number} {name}" for number, name in zip(numbers, classes.names, strict=True)]
    text = ", ".join(listed[:shown]) + (", ..." if len(listed) > shown else "")
    if kind == "classes":
        return f"values of your masks ({text})"
    other = own is not None and list(own) != numbers
    hint = f"; your masks had {', '.join(map(str, (own or ())[:shown]))}: --values classes" if other else ""
    return f"class indices ({text}){hint}"
