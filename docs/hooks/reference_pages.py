"""A hook of mkdocs: the API reference, one page for the verbs and one for each module of the floors researchers import.

Nothing is listed by hand: the verbs are ``segproto.__all__``, the pages the modules that are there.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

SOURCE = Path(__file__).resolve().parents[2] / "src"
FLOORS = {
    "prototypes": "Prototypes",
    "refine": "Refining masks",
    "metrics": "Metrics",
    "model": "Models",
}
INTRODUCTIONS = {
    "prototypes": "Comparing features with prototypes, grouping, clustering, losses: functions on tensors.",
    "refine": "From coarse scores to masks: dense CRF, affinities and random walk, mask proposals.",
    "metrics": "Figures of segmentation and of explanations: a function each, and a class that adds up over images.",
    "model": "A trained model: predict, explain, save, load.",
}


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages, and their places in the navigation."""
    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    reference = next(section["Reference"] for section in config.nav if "Reference" in section)
    reference += navigation()
    return files


def pages() -> dict[str, str]:
    """Every generated page by its name."""
    out = {
        "reference/command-line.md": command_line_page(),
        "reference/verbs.md": verbs_page(),
        "reference/errors.md": "# Errors\n\n" + directive("segproto.errors"),
    }
    for floor in FLOORS:
        out[f"reference/{floor}/index.md"] = floor_page(floor)
        for module in modules(floor):
            title = f"# segproto.{floor}.{module}\n\n"
            out[f"reference/{floor}/{module}.md"] = title + directive(f"segproto.{floor}.{module}")
    return out


def navigation() -> list[dict[str, Any]]:
    """The generated part of the navigation."""
    floors = [
        {title: [f"reference/{floor}/index.md"] + [{m: f"reference/{floor}/{m}.md"} for m in modules(floor)]}
        for floor, title in FLOORS.items()
    ]
    command_line = {"Command line": "reference/command-line.md"}
    return [command_line, {"segproto": "reference/verbs.md"}, *floors, {"Errors": "reference/errors.md"}]


def modules(floor: str) -> list[str]:
    """Public modules of a floor."""
    return sorted(p.stem for p in (SOURCE / "segproto" / floor).glob("*.py") if not p.stem.startswith("_"))


def directive(name: str, **options: str) -> str:
    """What mkdocstrings turns into the documentation of a module or function."""
    options = options or {"show_root_heading": "false", "show_root_toc_entry": "false"}
    lines = "".join(f"      {key}: {value}\n" for key, value in options.items())
    return f"::: {name}\n    options:\n{lines}\n"


def verbs_page() -> str:
    """Every public name of ``segproto``, where it is defined today."""
    import segproto

    intro = "What the command line calls, as functions with keyword arguments. `import segproto` loads nothing heavy."
    text = [f"# segproto\n\n{intro} What they raise is a [`segproto.SegprotoError`](errors.md).\n"]
    for name in sorted(set(segproto.__all__) - {"SegprotoError"}):
        thing = getattr(segproto, name)
        text.append(directive(f"{thing.__module__}.{thing.__qualname__}", heading=f"segproto.{name}", toc_label=name))
    return "\n".join(text)


def floor_page(floor: str) -> str:
    """A floor's modules with the first line of each."""
    rows = []
    for module in modules(floor):
        doc = ast.get_docstring(ast.parse((SOURCE / "segproto" / floor / f"{module}.py").read_text(encoding="utf-8")))
        rows.append(f"| [{module}]({module}.md) | {(doc or '').splitlines()[0]} |")
    table = f"`segproto.{floor}`\n\n| module | |\n|---|---|\n"
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {FLOORS[floor]}\n\n{INTRODUCTIONS[floor]}\n\n{table}"
    return head + "\n".join(rows) + "\n"


def command_line_page() -> str:
    """What ``--help`` says of every command."""
    import click
    import typer

    from segproto.cli.app import app

    text = ["# Command line\n"]

    def add(command: Any, context: Any, name: str) -> None:
        text.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```\n")
        for word in command.list_commands(context) if hasattr(command, "list_commands") else []:
            inner = command.get_command(context, word)
            add(inner, type(context)(inner, info_name=word, parent=context, terminal_width=88), f"{name} {word}")

    group = typer.main.get_command(app)
    add(group, click.Context(group, info_name="segproto", terminal_width=88), "segproto")
    return "\n".join(text)
