"""Printing: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from segproto.errors import UnreadableImages, plain

FIGURE = 16  # characters of a short cell, as in 48.90 ± 1.23
GAP = 2  # blanks after a column


def first_process() -> bool:
    """Whether this process is the one that speaks; a run on several devices has one for each."""
    from torch import distributed

    return not distributed.is_initialized() or distributed.get_rank() == 0


def say(text: str = "", err: bool = False) -> None:
    """Prints a line, on stderr if it is a remark and no result; its parts may come from a file that others wrote."""
    print(plain(text), file=sys.stderr if err else sys.stdout)


def tell_files(
    key: str, written: Sequence[Path], unreadable: UnreadableImages | None, words: str, as_json: bool
) -> None:
    """What a command made of many images, and which of them it could not read.

    Args:
        key: of the files in the JSON.
        written: the files.
        unreadable: the images that are broken, if some are.
        words: the line for people.
        as_json: print JSON instead of it.

    Raises:
        typer.Exit: with code 1, if some are broken.
    """
    import typer

    if as_json:
        broken = {} if unreadable is None else unreadable.broken
        rows = [{"image": str(path), "reason": reason} for path, reason in broken.items()]
        print_json({key: [str(path) for path in written], "broken": rows})
    else:
        say(words)
    if unreadable is not None:
        for line in unreadable.args:
            say(line, err=True)
        raise typer.Exit(1)


def print_json(value: Any) -> None:
    """Prints JSON on stdout."""
    print(json.dumps(value, indent=1, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Prints a table; columns after the first are right-aligned. Nothing is printed where there are no rows.

    Where the terminal is narrow, headings and sentences wrap between words, names and figures do not.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    cells = [[plain(cell) for cell in row] for row in rows]
    if not cells:
        return
    columns = [plain(column) for column in columns]
    console = Console(highlight=False, markup=False, emoji=False)
    widths = column_widths([list(column) for column in zip(columns, *cells, strict=True)], console.width)
    table = Table(
        title=None if title is None else plain(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for i, (column, width) in enumerate(zip(columns, widths, strict=True)):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold", width=width)
    for row in cells:
        table.add_row(*row)
    console.print(table)


def column_widths(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """How many characters each column gets of a line of ``room``.

    What is too long is broken between words: first headings and cells of more than ``FIGURE`` characters, then all but
    the first column; the cells of that one are cut only if the line is still too short.

    Args:
        columns: the heading of each and its cells.
        room: characters of a line.
    """
    from rich.cells import cell_len

    def widest(texts: Iterable[str]) -> int:
        return max((cell_len(text) for text in texts), default=0)

    def unbroken(column: int, limit: int) -> int:
        heading, *cells = columns[column]
        kept = ([cell] if column == 0 or cell_len(cell) <= limit else cell.split() for cell in cells)
        return max(widest(heading.split()), widest(part for parts in kept for part in parts))

    widths = [widest(column) for column in columns]
    excess = sum(widths) + GAP * len(widths) + 1 - room
    for limit in (FIGURE, 0):
        least = [unbroken(index, limit) for index in range(len(columns))]
        while excess > 0 and widths != least:
            index = max(range(len(widths)), key=lambda i: widths[i] - least[i])
            widths[index] -= 1
            excess -= 1
    widths[0] -= min(max(excess, 0), max(widths[0] - FIGURE // 2, 0))
    return widths


def percent(value: float | None) -> str:
    """A share in 0..1 as a percentage with two digits; "-" where there is none."""
    return "-" if value is None else f"{100 * value:.2f}"
