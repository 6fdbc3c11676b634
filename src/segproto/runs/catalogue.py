"""The shipped recipes: ``<method>/<name>``, a YAML file each in the method's folder."""

from __future__ import annotations

from pathlib import Path

from segproto.errors import ConfigError
from segproto.table import nearest

DATA_KINDS = {
    "folder": "your own images and masks, described by a classes.yaml",
    "images": "your own images, without masks (methods that need no labels)",
    "scenes": "generated scenes with parts; needs no files",
    "em": "ISBI-2012 membranes: the two TIFF stacks, or folders of PNGs",
    "camvid": "CamVid with 11 classes",
}
DATA_SOURCES = {  # of kinds above: where to get them, under which terms
    "em": ("https://imagej.net/events/isbi-2012-segmentation-challenge", "terms on that page; cite its paper"),
    "camvid": ("http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/", "terms on that page; cite its papers"),
}


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
