"""Printing: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any


def print_json(value: Any) -> None:
    """Prints JSON on stdout."""
    print(json.dumps(value, indent=1, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Prints a table; columns after the first are right-aligned. Nothing is printed where there are no rows."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    if not table.rows:
        return
    Console(highlight=False, markup=False).print(table)


def percent(value: float | None) -> str:
    """A share in 0..1 as a percentage with two digits; "-" where there is none."""
    return "-" if value is None else f"{100 * value:.2f}"
