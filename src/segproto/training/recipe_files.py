"""Recipes as files: read from YAML and merged over what their ``base`` names. Nothing heavy is imported for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segproto.errors import ConfigError
from segproto.files.yaml_text import parse_yaml, read_yaml
from segproto.table import nearest

RecipeDict = dict[str, Any]
"""A recipe as its file has it: sections of settings, not checked yet."""

MAX_BASES = 8  # a longer chain of ``base`` is a cycle
SUFFIXES = (".yaml", ".yml")
RENAMED = {"optimiser": "optimizer"}  # keys of older recipes, still read


def load_recipe_dict(source: Path | str, bases: Mapping[str, Path] | None = None) -> RecipeDict:
    """Reads a recipe, merged over what its ``base`` names, if it names any: one or a list, the last one counts most.

    Args:
        source: a file, or the text of a recipe (recognised by a line break or a colon and space).
        bases: files that ``base`` may name as ``METHOD/NAME``; else it is a file, relative to the recipe.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping.
    """
    return _load(source, bases or {}, MAX_BASES)


def _load(source: Path | str, bases: Mapping[str, Path], depth: int) -> RecipeDict:
    is_text = isinstance(source, str) and ("\n" in source or ": " in source)
    name = "recipe" if is_text else str(source)
    value = parse_yaml(str(source), name) if is_text else read_yaml(Path(source), ConfigError)
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: expected a mapping of sections (method, data, encoder, train ...)")
    value = {RENAMED.get(key, key): with_present_keys(item) for key, item in value.items()}
    bases_named = value.pop("base", None)
    if bases_named is None:
        return value
    if depth == 0:
        raise ConfigError(f"{name}: base {bases_named!r} leads back to itself")
    result: RecipeDict = {}
    for base in bases_named if isinstance(bases_named, list) else [bases_named]:
        file = base_file(base, Path() if is_text else Path(source).parent, bases, name)
        result = merge(result, _load(file, bases, depth - 1))
    return merge(result, value)


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
