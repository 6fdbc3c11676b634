"""``explain``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from segproto.cli.arguments import Bands, Device, Devices, Json, MaxPixels, Quiet, Stage, Target
from segproto.cli.options import bands as band_list
from segproto.cli.show import first_process, percent, print_json, print_table, say, tell_files
from segproto.errors import ConfigError


def explain(
    target: Target,
    image: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    out: Annotated[Path, typer.Option(help="Folder for maps, JSON and index.html; of a folder one for each image.")],
    stage: Stage = None,
    region: Annotated[str | None, typer.Option(help="Y0,X0,Y1,X1 in pixels: explain this part only.")] = None,
    max_pixels: MaxPixels = None,
    bands: Bands = None,
    page: Annotated[int | None, typer.Option(min=1, help="Of a TIFF stack, from 1.")] = None,
    device: Device = None,
    devices: Devices = None,
    resume: Annotated[bool, typer.Option("--resume", help="Of a folder: what this model made there stays.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show which prototypes decided each pixel of an image, or of each image of a folder."""
    from segproto import api

    if image.is_dir():
        if region is not None or page is not None:
            raise ConfigError("--region and --page go with one image, not with a folder")
        options: dict[str, Any] = {"max_pixels": max_pixels, "bands": band_list(bands), "devices": devices}
        explain_all(target, image, out, as_json, stage=stage, device=device, resume=resume, quiet=quiet, **options)
        return
    if resume or devices not in (None, 1):
        raise ConfigError("--resume and --devices go with a folder of images")
    area = parse_region(region)
    seen: dict[str, Any] = {"region": area, "max_pixels": max_pixels, "bands": band_list(bands), "page": page}
    why = api.explain(target, image, out=out, stage=stage, device=device, **seen)
    classes = why.summary()
    if as_json:
        print_json({"page": str(out / "index.html"), "classes": classes})
        return
    rows = [(row["class_name"], percent(row["area"]), strongest(row, why.unit)) for row in classes]
    print_table(["class", "pixels %", "strongest evidence"], rows)
    say(f"Open {out / 'index.html'}")


def explain_all(target: Path, images: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Explains the images of a folder, and tells of those that are broken."""
    from segproto import api
    from segproto.errors import UnreadableImages

    unreadable: UnreadableImages | None = None
    try:
        written: Sequence[Path] = api.explain_folder(target, images, out=out, **options)
    except UnreadableImages as error:
        unreadable, written = error, error.written
    if not first_process():
        return
    words = f"{len(written)} images explained; open {out}/NAME/index.html"
    tell_files("pages", written, unreadable, words, as_json)


def strongest(row: dict[str, Any], unit: str) -> str:
    """The two largest contributions to a class, in words."""
    parts = []
    for prototype in row["prototypes"][:2]:
        source = f" from {prototype['source']['image']}" if prototype["source"] else ""
        parts.append(f"{unit} {prototype['prototype']}{source} {prototype['contribution']:+.2f}")
    return ", ".join(parts)


def parse_region(text: str | None) -> tuple[int, int, int, int] | None:
    """``Y0,X0,Y1,X1`` to numbers.

    Raises:
        ConfigError: not four whole numbers with Y0 < Y1 and X0 < X1.
    """
    if text is None:
        return None
    try:
        y0, x0, y1, x1 = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--region {text}: expected Y0,X0,Y1,X1 in pixels") from error
    if not (0 <= y0 < y1 and 0 <= x0 < x1):
        raise ConfigError(f"--region {text}: expected 0 <= Y0 < Y1 and 0 <= X0 < X1")
    return y0, x0, y1, x1
