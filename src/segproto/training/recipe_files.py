"""Recipes as files: read from YAML and merged over what their ``base`` names. Nothing heavy is imported for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from segproto.errors import ConfigError
from segproto.files.yaml_text import parse_yaml, read_yaml
from segproto.table import nearest

RecipeDict = dict[str, Any]
"""A recipe as its file has it: sections of settings, not checked yet."""

MAX_BASES = 8  # a longer chain of ``base`` is a cycle
SUFFIXES = (".yaml", ".yml")
RENAMED = {"optimiser": "optimizer"}  # keys of older recipes, still read


Source = Path | str | Mapping[str, Any]


def load_recipe_dict(
    source: Source, bases: Mapping[str, Path] | None = None, *, of: Literal["all", "shipped", "own"] = "all"
) -> RecipeDict:
    """Reads a recipe, merged over what its ``base`` names, if it names any: one or a list, the last one counts most.

    Args:
        source: a file, the text of a recipe (recognised by a line break or a colon and space), or what such a text
            holds.
        bases: files that ``base`` may name as ``METHOD/NAME``; else it is a file, relative to the recipe.
        of: everything; or what the files of ``bases`` say, or what it says itself and in files of one's own, alone.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping.
    """
    known = {} if bases is None else bases
    shipped = frozenset(known.values())
    return _load(source, known, lambda file: of == "all" or (file in shipped) == (of == "shipped"), MAX_BASES)


def _load(
    source: Source, bases: Mapping[str, Path], counts: Callable[[Path | str | None], bool], depth: int
) -> RecipeDict:
    name, folder, value = _read(source)
    named = value.pop("base", None)
    if named is not None and depth == 0:
        raise ConfigError(f"{name}: base {named!r} leads back to itself")
    result: RecipeDict = {}
    for base in [] if named is None else named if isinstance(named, list) else [named]:
        result = merge(result, _load(base_file(base, folder, bases, name), bases, counts, depth - 1))
    return merge(result, value) if counts(None if isinstance(source, Mapping) else source) else result


def _read(source: Source) -> tuple[str, Path, RecipeDict]:
    """A recipe's name in messages, the folder that its ``base`` may be relative to, and what it says."""
    is_text = isinstance(source, str) and ("\n" in source or ": " in source)
    if isinstance(source, Mapping):
        name, folder, value = "recipe", Path(), dict(source)
    elif is_text:
        name, folder, value = "recipe", Path(), parse_yaml(str(source), "recipe")
    else:
        name, folder, value = str(source), Path(source).parent, read_yaml(Path(source), ConfigError)
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: expected a mapping of sections (method, data, encoder, train ...)")
    return name, folder, {RENAMED.get(key, key): with_present_keys(item) for key, item in value.items()}


def base_file(base: Any, folder: Path, bases: Mapping[str, Path], recipe: str) -> Path:
    """The file that a recipe's ``base`` means.

    Raises:
        ConfigError: neither a known name nor a file; the nearest name is told.
    """
    if not isinstance(base, str):
        raise ConfigError(f"{recipe}: base = {base!r}: expected a recipe's name or file, or a list of them")
    if base in bases:
        return bases[base]
    file = folder / Path(base).expanduser()
    if not file.is_file() and Path(base).suffix not in SUFFIXES:
        raise ConfigError(f"{recipe}: base = {base!r} is neither a shipped recipe nor a file; {nearest(base, bases)}")
    return file


def with_present_keys(value: Any) -> Any:
    """A part of a recipe with the keys of older versions under their present names, at any depth."""
    if isinstance(value, list):
        return [with_present_keys(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {RENAMED.get(key, key): with_present_keys(item) for key, item in value.items()}


def merge(base: RecipeDict, over: RecipeDict) -> RecipeDict:
    """``base`` with the values of ``over``; mappings are merged at any depth, everything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge(result[key], value) if both else value
    return result
