"""JSON as others left it: parsed within bounds, then checked by a schema that names file, key and value."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from segproto.errors import DataError, SegprotoError
from segproto.files.keys import explain_error
from segproto.files.reading import read_text

JSON_LIMIT = 2**26  # bytes of a file
DEEPEST = 50  # lists and mappings inside each other
LARGEST_INTEGER = 2**63
# JSON that needs a closer look: half a surrogate pair, which no file could be written with, or a long number.
SUSPECT = re.compile(r"\\u[dD][89a-fA-F]|[0-9]{19}")

SchemaT = TypeVar("SchemaT", bound=BaseModel)


class Record(BaseModel):
    """A JSON object with more keys than are named here."""

    model_config = ConfigDict(extra="allow", strict=True)  # strict: the plain values are what is used afterwards


def parse_json(text: str, source: object, error: type[SegprotoError] = DataError, advice: str = "") -> Any:
    """Plain values of a JSON text.

    Raises:
        SegprotoError: of the given kind, naming the source: no JSON, too deep, or with numbers or characters that
            nothing could be done with.
    """
    try:
        value = json.loads(text)
        if text.count("[") + text.count("{") > DEEPEST or SUSPECT.search(text):
            look_closer(value)
    except (ValueError, RecursionError) as problem:
        reason = "nested too deeply" if isinstance(problem, RecursionError) else problem
        raise error(f"{source}: not JSON ({reason}){advice and '; ' + advice}") from problem
    return value


def read_json(path: Path, error: type[SegprotoError] = DataError, advice: str = "") -> Any:
    """Plain values of a JSON file.

    Raises:
        SegprotoError: of the given kind, naming the file, see :func:`parse_json` and
            :func:`~segproto.files.reading.read_text`.
    """
    return parse_json(read_text(path, error, JSON_LIMIT, "JSON file"), path, error, advice)


def look_closer(value: Any) -> None:
    """Refuses what later steps (messages, pages, other files) could not work with.

    Raises:
        ValueError: more than ``DEEPEST`` levels, an integer beyond 64 bits, or half a surrogate pair.
    """
    level = [value]
    for _ in range(DEEPEST + 1):
        inner: list[Any] = []
        for member in level:
            if isinstance(member, dict):
                inner += [*member, *member.values()]
            elif isinstance(member, list | tuple | set):
                inner += member
            elif isinstance(member, str):
                member.encode()  # a UnicodeEncodeError is a ValueError
            elif isinstance(member, int) and abs(member) > LARGEST_INTEGER:
                raise ValueError(f"an integer of {member.bit_length()} bits")
        if not inner:
            return
        level = inner
    raise ValueError(f"more than {DEEPEST} levels")


def checked(
    value: Any, schema: type[SchemaT], source: object, error: type[SegprotoError] = DataError, advice: str = ""
) -> SchemaT:
    """What was parsed, as a schema.

    Args:
        value: plain values.
        schema: what is expected.
        source: where they come from, for messages.
        error: what is raised.
        advice: what to do about it, after the message.

    Raises:
        SegprotoError: of the given kind, naming the source, the first wrong key, its value and what was expected.
    """
    try:
        return schema.model_validate(value)
    except ValidationError as problem:
        line = explain_error(problem.errors()[0], value, schema, recipe=False)
        raise error(f"{source}: {line}{advice and '; ' + advice}") from None


def read_checked(
    path: Path, schema: type[SchemaT], error: type[SegprotoError] = DataError, advice: str = ""
) -> SchemaT:
    """A JSON file as a schema, see :func:`read_json` and :func:`checked`."""
    return checked(read_json(path, error, advice), schema, path, error, advice)


def read_object(path: Path, error: type[SegprotoError] = DataError, advice: str = "") -> dict[str, Any]:
    """A JSON file that holds an object, of which any key may be missing or more."""
    value: dict[str, Any] = read_json(path, error, advice)
    checked(value, Record, path, error, advice)
    return value
