"""What a schema found wrong in one human line each, with the nearest known key."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

SHOWN = 120  # characters of a value in a message


def explain_error(error: Mapping[str, Any], value: Any, model: type[BaseModel], recipe: bool = True) -> str:
    """One of pydantic's errors as a line for people.

    Args:
        error: an item of ``ValidationError.errors()``.
        value: what was validated.
        model: its type.
        recipe: the value is what a person wrote, as settings; else a program did.
    """
    if not error["loc"]:
        return expectation(error)
    path = key_path(error["loc"], value, model)
    key = ".".join(str(part) for part in path)
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key{suggestion([str(p) for p in path], model)}"
    if error["type"] == "missing":
        return f"{key}: missing{f'; set it in the recipe or with {key}=VALUE' if recipe else ''}"
    if recipe and error["type"] == "string_type" and isinstance(error["input"], int | float):
        kind = "yes or no" if isinstance(error["input"], bool) else "a number"
        return f"{key} = {shown(error['input'])}: expected text, YAML reads this as {kind}; quote it: '{key}=\"...\"'"
    return f"{key} = {shown(error['input'])}: {expectation(error)}"


def expectation(error: Mapping[str, Any]) -> str:
    """What was expected instead."""
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    return message if error["type"] == "value_error" else f"expected {message}"


def shown(value: Any) -> str:
    """A value in a message: as Python writes it, but never long, on one line and without control characters."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str | bytes):
        value = value[: SHOWN + 1]
    text = repr(value) if _is_small(value) else reprlib.repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]} ..."


def _is_small(value: Any) -> bool:
    """Whether a container holds few values at all depths; repeated aliases can make a short file a long text."""
    waiting, count = [value], 0
    while waiting and count <= SHOWN:
        member, count = waiting.pop(), count + 1
        if isinstance(member, dict):
            waiting += [*member, *member.values()][:SHOWN]
        elif isinstance(member, list | tuple | set):
            waiting += list(member)[:SHOWN]
        elif isinstance(member, int) and member.bit_length() > 64:
            return False
    return count <= SHOWN


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
        if not isinstance(part, int):  # an item of a list is of the list's own models
            models = [sub for m in fields for sub in nested_models(m.model_fields[str(part)].annotation)]
    return path


def nested_models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside a type: itself, members of a union, items of a container."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from nested_models(argument)


def is_text(model: type[BaseModel], keys: Sequence[str]) -> bool:
    """Whether a setting holds text or a path and nothing else, so that what was typed is its value as it stands."""
    models, annotation = [model], None
    for key in keys:
        annotation = next((m.model_fields[key].annotation for m in models if key in m.model_fields), None)
        models = list(nested_models(annotation))
    kinds = {kind for kind in _plain_types(annotation) if kind is not type(None)}
    return bool(kinds) and all(isinstance(kind, type) and issubclass(kind, str | PurePath) for kind in kinds)


def _plain_types(annotation: Any) -> Iterator[Any]:
    """The members of a union, however nested, without what is annotated to them."""
    if get_origin(annotation) is Annotated:
        yield from _plain_types(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for argument in get_args(annotation):
            yield from _plain_types(argument)
    else:
        yield annotation


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
    keys = known_keys(model)
    parent, leaf = ".".join(path[:-1]), path[-1]
    siblings = {k.rpartition(".")[2]: k for k in keys if k.rpartition(".")[0] == parent}
    close = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.7)
    if close:
        return f"; did you mean {siblings[close[0]]}?"
    same = sorted((k for k in keys if k.rpartition(".")[2] == leaf), key=lambda k: k.count("."))
    matches = same or difflib.get_close_matches(".".join(path), keys, n=1, cutoff=0.6)
    leaves = {k.rpartition(".")[2]: k for k in reversed(keys)}
    far = matches or [leaves[k] for k in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.7)]
    if far:
        return f"; did you mean {far[0]}?"
    return f"; known here: {', '.join(siblings)}" if siblings else ""
