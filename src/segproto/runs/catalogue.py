"""The shipped recipes: ``<method>/<name>``, a YAML file each in the method's folder, and what several of them share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from segproto.encoders.words import vit_words
from segproto.errors import ConfigError
from segproto.table import nearest

PLACEHOLDER = re.compile(r"\{(data|encoder|side)\}")


def methods_folder() -> Path:
    """Where each method has its folder."""
    from segproto import methods

    return Path(methods.__file__).parent


def shipped() -> dict[str, Path]:
    """Recipe name to file, sorted by name; found by looking, so that a new method needs no entry here."""
    files = sorted(methods_folder().glob("*/recipes/*.yaml"))
    return {f"{file.parent.parent.name}/{file.stem}": file for file in files}


def shared() -> dict[str, Path]:
    """What recipes have in common, no recipes themselves: ``bases/NAME`` of several methods, ``METHOD/bases/NAME``."""
    root = methods_folder()
    own = {f"{file.parents[2].name}/bases/{file.stem}": file for file in sorted(root.glob("*/recipes/bases/*.yaml"))}
    return {f"bases/{file.stem}": file for file in sorted(root.glob("bases/*.yaml"))} | own


def read_recipe(recipe: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """A shipped recipe, a YAML file or what one would hold, merged over its bases, unchecked.

    Raises:
        ConfigError: no such recipe or base, or no YAML.
    """
    from segproto.training.recipe_files import load_recipe_dict

    source = recipe if isinstance(recipe, Mapping) else find_recipe(recipe)
    return load_recipe_dict(source, shipped() | shared())


def own_part(recipe: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe says beyond the shipped ones it is based on; nothing for a shipped one."""
    return _part(recipe, "own")


def shipped_part(recipe: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe takes from shipped ones, before it says anything itself."""
    return _part(recipe, "shipped")


def _part(recipe: str | Path | Mapping[str, Any], of: Literal["shipped", "own"]) -> dict[str, Any]:
    from segproto.training.recipe_files import load_recipe_dict

    source = recipe if isinstance(recipe, Mapping) else find_recipe(recipe)
    return load_recipe_dict(source, shipped() | shared(), of=of)


def recipe_text(name: str) -> str:
    """A recipe's YAML as shipped, under its title; it may be saved, changed and run, or be another's base."""
    file = find_recipe(name)
    text = file.read_text(encoding="utf-8")
    return text if text.startswith("#") else f"# {title(file)}\n{text}"


def summaries(method: str | None = None, data: str | None = None) -> dict[str, str]:
    """Shipped recipes: name to one line.

    Args:
        method: those of this method only.
        data: those for this kind of data set only.

    Raises:
        ConfigError: no recipe is for such a method or data set; the nearest there is is named.
    """
    recipes = shipped()
    if method is not None:
        methods = {name.split("/")[0] for name in recipes}
        if method not in methods:
            raise ConfigError(f"no recipe is of a method {method!r}; {nearest(method, sorted(methods))}")
        recipes = {name: file for name, file in recipes.items() if name.startswith(f"{method}/")}
    if data is not None:
        kinds = {name: read_recipe(file)["data"]["name"] for name, file in recipes.items()}
        if data not in kinds.values():
            hint = nearest(data, sorted(set(kinds.values())))
            raise ConfigError(f"none of these recipes is for data.name={data}; {hint}")
        recipes = {name: file for name, file in recipes.items() if kinds[name] == data}
    return {name: title(file) for name, file in recipes.items()}


def title(file: Path) -> str:
    """One line about a recipe: its own first comment, or that of its last base, with its own data and encoder in it."""
    line = first_comment(file)
    if PLACEHOLDER.search(line):
        words = described(read_recipe(file))
        line = PLACEHOLDER.sub(lambda match: words[match[1]], line)
    return line


def first_comment(file: Path) -> str:
    """The first line of a YAML file without its ``#``; if it is no comment, that of the base that counts most."""
    text = file.read_text(encoding="utf-8")
    if text.startswith("#"):
        return text.partition("\n")[0].lstrip("# ")
    base = re.match(r"base: (?:\[.*, )?([\w/-]+)\]?$", text, re.MULTILINE)
    known = shipped() | shared()
    return first_comment(known[base[1]]) if base is not None and base[1] in known else ""


def described(recipe: Mapping[str, Any]) -> dict[str, str]:
    """The placeholders of a title: what a recipe's data set, encoder and squares are."""
    data = recipe["data"]
    classes = f", {data['variant']} classes" if "variant" in data else ""
    encoder = vit_words(recipe["encoder"]["backbone"])
    return {"data": data["name"] + classes, "encoder": encoder, "side": str(data.get("square"))}


def find_recipe(recipe: str | Path) -> Path:
    """The file of a shipped recipe, or the YAML file itself.

    Raises:
        ConfigError: naming the nearest shipped recipe.
    """
    from segproto.training.recipe_files import SUFFIXES

    known = shipped()
    if str(recipe) in known:
        return known[str(recipe)]
    path = Path(recipe)
    if path.is_file():
        return path
    if path.suffix in SUFFIXES:
        raise ConfigError(f"{path}: no such recipe file; the shipped ones are listed by: segproto recipes")
    raise ConfigError(f"recipe {str(recipe)!r} is neither shipped nor a YAML file; {nearest(str(recipe), known)}")
