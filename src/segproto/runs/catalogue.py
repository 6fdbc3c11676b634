"""The shipped recipes: ``<method>/<name>``, a YAML file each in the method's folder."""

from __future__ import annotations

from pathlib import Path

from segproto.errors import ConfigError
from segproto.table import nearest


def shipped() -> dict[str, Path]:
    """Recipe name to file, sorted by name; found by looking, so that a new method needs no entry here."""
    from segproto import methods

    root = Path(methods.__file__).parent
    files = sorted(root.glob("*/recipes/*.yaml"))
    return {f"{file.parent.parent.name}/{file.stem}": file for file in files}


def recipe_text(name: str) -> str:
    """A recipe's YAML as shipped."""
    return find_recipe(name).read_text(encoding="utf-8")


def summaries() -> dict[str, str]:
    """Shipped recipes: name to one line, their first comment."""
    return {name: first_comment(file) for name, file in shipped().items()}


def first_comment(file: Path) -> str:
    """The first line of a YAML file without its ``#``; empty if it is no comment."""
    with file.open(encoding="utf-8") as lines:
        line = lines.readline().strip()
    return line.lstrip("# ") if line.startswith("#") else ""


def find_recipe(recipe: str | Path) -> Path:
    """The file of a shipped recipe, or the YAML file itself.

    Raises:
        ConfigError: naming the nearest shipped recipe.
    """
    known = shipped()
    if str(recipe) in known:
        return known[str(recipe)]
    path = Path(recipe)
    if path.is_file():
        return path
    if path.suffix in {".yaml", ".yml"}:
        raise ConfigError(f"{path}: no such recipe file; the shipped ones are listed by: segproto recipes")
    raise ConfigError(f"recipe {str(recipe)!r} is neither shipped nor a YAML file; {nearest(str(recipe), known)}")
