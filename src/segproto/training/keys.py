"""Errors of a recipe in one human line each, with the nearest known key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel


def explain_error(error: Mapping[str, Any], value: Any, model: type[BaseModel]) -> str:
    """One of pydantic's errors as a line for people.

    Args:
        error: an item of ``ValidationError.errors()``.
        value: what was validated.
        model: its type.
    """
    path = key_path(error["loc"], value, model)
    key = ".".join(str(part) for part in path)
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key{suggestion([str(p) for p in path], model)}"
    if error["type"] == "missing":
        return f"{key}: missing; set it in the recipe or with {key}=VALUE"
    if error["type"] == "string_type" and isinstance(error["input"], int | float):
        kind = "yes or no" if isinstance(error["input"], bool) else "a number"
        return f"{key} = {error['input']!r}: expected text, YAML reads this as {kind}; quote it: '{key}=\"...\"'"
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    expected = message if error["type"] == "value_error" else f"expected {message}"
    return f"{key} = {error['input']!r}: {expected}"


def key_path(loc: Sequence[int | str], value: Any, model: type[BaseModel]) -> list[int | str]:
    """The location without the tags of unions that pydantic puts into it: only keys a person wrote or may write."""
    path: list[int | str] = []
    models = [model]
    for part in loc:
        fields = [m for m in models if part in m.model_fields]
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part] if part < len(value) else None
        elif fields:
            value = None
        else:
            continue
        path.append(part)
        models = [sub for m in fields for sub in nested_models(m.model_fields[str(part)].annotation)]
    return path


def nested_models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside a type: itself, members of a union, items of a container."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from nested_models(argument)


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All keys of a model at any depth, dotted."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        for sub in nested_models(field.annotation):
            keys += known_keys(sub, f"{prefix}{name}.")
    return list(dict.fromkeys(keys))


def suggestion(path: list[str], model: type[BaseModel]) -> str:
    """``; did you mean train.seed?`` or nothing: siblings first, then the same or a similar key elsewhere."""
    known = known_keys(model)
    parent, leaf = ".".join(path[:-1]), path[-1]
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == parent}
    close = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.7)
    if close:
        return f"; did you mean {siblings[close[0]]}?"
    same = sorted((k for k in known if k.rpartition(".")[2] == leaf), key=lambda k: k.count("."))
    whole = same or difflib.get_close_matches(".".join(path), known, n=1, cutoff=0.6)
    leaves = {k.rpartition(".")[2]: k for k in reversed(known)}
    far = whole or [leaves[k] for k in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.7)]
    if far:
        return f"; did you mean {far[0]}?"
    return f"; known here: {', '.join(siblings)}" if siblings else ""
