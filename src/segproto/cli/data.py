"""``data list``, ``data init``, ``data prepare`` and ``data submit``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from segproto.cli.arguments import Json, Quiet
from segproto.cli.info import as_setting
from segproto.cli.options import settings
from segproto.cli.show import percent, print_json, print_table, say

Name = Annotated[str, typer.Argument(help="A published data set; see: segproto data list.")]


def data_list(
    name: Annotated[str | None, typer.Argument(help="Only this one, with its archives.")] = None, as_json: Json = False
) -> None:
    """List the kinds of data set that data.name takes, where to get them and under which terms."""
    from segproto import api

    rows = api.data_sets(name)
    if as_json:
        print_json(rows)
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        say(f"{row['name']:<{width}}  {row['title']}")
        if "where" not in row:
            continue
        say(f"{'':<{width}}  {row['where']} ({row['terms']})")
        if name is not None and "archives" in row:
            for archive in row["archives"]:
                say(f"{'':<{width}}  {archive}")
            say(f"{'':<{width}}  data.variant: {', '.join(row['variants'])}")
            say(f"{'':<{width}}  root: {row['root'] or 'not set; ' + row['variable'] + '=DIR'}")


def data_init(
    values: Annotated[
        list[str],
        typer.Argument(metavar="DIR|ZIP [KEY=VALUE]...", help="A folder or zip archive; data.layout=NAME ..."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: classes.yaml in the folder. Never written over.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a classes.yaml from what the masks of a folder hold: names, values and counts, for you to edit."""
    from segproto import api

    written = api.data_init(overrides=settings([as_setting(v) for v in values]), out=out, quiet=quiet)
    if as_json:
        print_json(written)
        return
    say(written["layout"])
    print_table(["class", "pixels %"], [(name, percent(part)) for name, part in written["classes"].items()])
    for note in written["notes"]:
        say(f"note: {note}")
    chosen = " ".join(shlex.quote(v) for v in values[1:])
    root = shlex.quote(values[0].removeprefix("data.root=").removeprefix("root="))
    classes = "" if out is None else f" data.classes={shlex.quote(str(out))}"
    say(f"{written['out']}: written; look through it, then: segproto data verify {root} {chosen}".rstrip())
    say(f"and: segproto train blackbox/folder data.root={root}{classes} {chosen}".rstrip())


def data_prepare(
    name: Name,
    source: Annotated[list[Path], typer.Option("--from", help="An archive, or a folder that holds them.")],
    root: Annotated[Path, typer.Option(help="Data root to make; repeat the command to go on.")],
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Unpack the archives of a published data set and check that it is complete; nothing is downloaded."""
    from segproto import api

    result = api.data_prepare(name, sources=source, root=root, jobs=jobs, quiet=quiet)
    if as_json:
        print_json(result)
    else:
        for split, count in result["counts"].items():
            say(f"{split}: {count} images with masks")
        for problem in result["problems"]:
            say(problem)
    if result["problems"]:
        raise typer.Exit(1)


def data_submit(
    name: Annotated[str, typer.Argument(help="cityscapes, voc or ade20k.")],
    masks: Annotated[Path, typer.Argument(help="Folder that segproto predict wrote.")],
    out: Annotated[Path, typer.Option(help="Archive to write (.zip; voc: .tgz).")],
) -> None:
    """Pack predicted masks of the test images as the benchmark's server wants them."""
    from segproto import api

    result = api.data_submit(name, masks, out=out)
    say(f"{result['out']}: {result['masks']} masks")
    if result["masks"] != result["test_images"]:
        say(f"the test set has {result['test_images']} images: the server will refuse this one", err=True)
