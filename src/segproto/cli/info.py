"""``recipes``, ``data`` and ``doctor``."""

from __future__ import annotations

import shlex
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from segproto.cli.arguments import Json, Processes, Quiet
from segproto.cli.options import settings
from segproto.cli.show import first_process, percent, print_json, print_table, say
from segproto.errors import ConfigError


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="METHOD|RECIPE", help="A method's recipes alone, or one recipe's YAML.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Recipes for this data set alone, as in --data cityscapes.")] = None,
    as_json: Json = False,
) -> None:
    """List the shipped recipes by method, or print one."""
    from segproto import api

    if name is not None and ("/" in name or "." in name):
        if data is not None:
            raise ConfigError(f"--data {data}: chooses what is listed; leave it out to print a recipe")
        print(api.recipe_text(name), end="")  # as it was shipped
        return
    titles = api.recipes(method=name, data=data)
    if as_json:
        print_json(titles)
        return
    width = max(len(key) for key in titles)
    for method, keys in groupby(titles, key=lambda key: key.split("/")[0]):
        say(method)
        for key in keys:
            say(f"  {key:<{width}}  {titles[key]}")


def data_verify(
    values: Annotated[
        list[str],
        typer.Argument(metavar="NAME|DIR|KEY=VALUE...", help="A set, a folder, or as in data.name=em data.root=DIR."),
    ],
    devices: Processes = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Check every image and mask; exit 1 with one line per problem."""
    from segproto import api

    result = api.data_verify(overrides=settings([as_setting(v) for v in values]), devices=devices, quiet=quiet)
    if not first_process():
        return
    if as_json:
        print_json(result)
    else:
        if result["layout"]:
            say(result["layout"])
        if result["settings"]:
            say("the same by settings: " + " ".join(f"{k}={shlex.quote(v)}" for k, v in result["settings"].items()))
        rows = [(split, str(n), percent(result["void"][split])) for split, n in result["counts"].items()]
        print_table(["split", "images", "void pixels %"], rows)
        print_table(["class", "pixels %"], [(name, percent(part)) for name, part in result["shares"].items()])
        for note in result["notes"]:
            say(f"note: {note}")
    for problem in result["problems"]:
        say(problem, err=True)
    if result["problems"]:
        raise typer.Exit(1)


def as_setting(value: str) -> str:
    """A bare word as a setting: the name of a data set, or else a folder.

    Raises:
        DataError: it is neither.
    """
    import difflib

    from segproto.data.archives import is_archive
    from segproto.data.table import DATASETS
    from segproto.errors import DataError

    if "=" in value:
        return value
    if is_archive(Path(value)):
        return f"data.root={value}"
    if not Path(value).is_dir() and value not in DATASETS:
        near = difflib.get_close_matches(value, DATASETS, n=1, cutoff=0.7)
        expected = (
            "expected a folder or archive (zip, tar) of images and masks, or a name that segproto data list shows"
        )
        hint = f"did you mean {near[0]}?" if near else expected
        raise DataError(f"{value!r} is neither a folder nor a data set; {hint}")
    return f"data.root={value}" if Path(value).is_dir() else f"data.name={value}"


def doctor(as_json: Json = False) -> None:
    """Show versions, processors, memory and extras."""
    from segproto import api

    facts = api.doctor()
    if as_json:
        print_json(facts)
        return
    width = max(len(key) for key in facts)
    for key, value in facts.items():
        say(f"{key:<{width}}  {value}")
