"""``convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segproto.cli.arguments import Json
from segproto.cli.options import settings
from segproto.cli.show import print_json, say
from segproto.errors import ConfigError


def convert(
    source: Annotated[str | None, typer.Argument(help="Kind of checkpoint; see --list.")] = None,
    file: Annotated[Path | None, typer.Argument(help="The published file.")] = None,
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the source.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Model folder, or .safetensors file of a backbone.")] = None,
    classes: Annotated[Path | None, typer.Option(help="classes.yaml, or a shipped one, as in voc.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Where each published file is, its size and licence.")] = False,
    as_json: Json = False,
) -> None:
    """Make a model of a published checkpoint; nothing in the file is run."""
    from segproto import api

    if show:
        print_sources(as_json)
        return
    if source is None or file is None or out is None:
        raise ConfigError(
            "expected SOURCE FILE --out MODEL, as in: segproto convert scaleprotoseg a.pth --out models/a"
        )
    result = api.convert(source, file, out=out, classes=classes, overrides=settings(values))
    if as_json:
        print_json(result)
    else:
        print_result(result)


def print_result(result: dict[str, Any]) -> None:
    """What was made, what was left out, and how to use it."""
    say(f"{result['out']}: {result.get('title', result['source'])}")
    for reason, names in result.get("left_out", {}).items():
        say(f"  left out: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''} ({reason})")
    for note in result.get("notes", []):
        say(f"  {note}")
    say(f"  paper: {result['paper']}")
    say(f"  licence: {result['license']}")
    if result["settings"]:
        say("  use: " + " ".join(f"{key}={value}" for key, value in result["settings"].items()))


def print_sources(as_json: bool) -> None:
    """All sources, for people or programs."""
    from segproto import api

    rows = [
        {key: getattr(source, key) for key in ("name", "title", "where", "size", "license", "paper")}
        for source in api.conversion_sources().values()
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        say(f"{row['name']}\n  {row['title']}")
        for key in ("where", "size", "license", "paper"):
            say(f"  {key + ':':<9}{row[key]}")
