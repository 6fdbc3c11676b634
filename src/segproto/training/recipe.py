"""Recipes: overridden by ``key=value``, checked, and written back resolved."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from segproto.data.config import DataConfig
from segproto.encoders.config import EncoderConfig
from segproto.errors import ConfigError
from segproto.files.keys import explain_error, is_text, shown
from segproto.files.yaml_text import parse_yaml
from segproto.training.config import TrainConfig
from segproto.training.recipe_files import RecipeDict, merge, with_present_keys

QUOTED = re.compile(r"""\s*(null)?\s*|\s*".*"\s*|\s*'.*'\s*""")  # of text, what is YAML all the same
LARGEST = 10**12  # of any number in a recipe


class Recipe(BaseModel):
    """What every recipe holds; a method adds ``model`` and ``stages``.

    Attributes:
        method: the method's name.
        data: the data set.
        encoder: backbone and neck.
        train: how it is run.
        then: a recipe to run on the masks this run leaves: its name or file, or a recipe in place (a mapping, whose
            ``base`` may name one). It takes the backbone, its weights and how it is run from this one, unless it says
            otherwise (:mod:`segproto.runs.following`).
        compare: a run to stand beside in the report.
    """

    model_config = ConfigDict(extra="forbid")

    method: str
    data: DataConfig
    encoder: EncoderConfig = EncoderConfig()
    train: TrainConfig = TrainConfig()
    then: str | dict[str, Any] | None = None
    compare: Path | None = None

    @model_validator(mode="after")
    def _as_many_bands(self) -> Self:
        """The encoder takes as many bands as the data have; a number of its own may only say the same."""
        if "bands" not in self.encoder.model_fields_set and self.encoder.bands != self.data.num_bands:
            self.encoder = self.encoder.model_copy(update={"bands": self.data.num_bands})
        if self.encoder.bands != self.data.num_bands:
            raise ValueError(f"encoder.bands = {self.encoder.bands}: the data have {self.data.num_bands} (data.bands)")
        return self


RecipeT = TypeVar("RecipeT", bound=Recipe)


def apply_overrides(value: RecipeDict, overrides: Iterable[str], schema: type[BaseModel] | None = None) -> RecipeDict:
    """A copy with ``a.b=c`` applied; the right-hand side is YAML (``true``, ``3``, ``[1, 2]``, ``null``).

    What ``schema`` says is text or a path is taken as it was typed (``2024``, ``yes``, ``set #2``, ``{split}/images``),
    but for ``null``, nothing at all, and what is quoted as a whole.

    Raises:
        ConfigError: an override without ``=`` or with an empty key.
    """
    for item in overrides:
        key, equals, text = item.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(f"{item!r}: expected key=value, for example train.seed=1")
        typed = schema is not None and is_text(schema, parts) and not QUOTED.fullmatch(text)
        nested: Any = text if typed else parse_yaml(text, item)
        for part in reversed(parts):
            nested = {part: nested}
        value = merge(value, with_present_keys(nested))
    return value


def validate_recipe(value: RecipeDict, recipe_type: type[RecipeT]) -> RecipeT:
    """Checks a recipe.

    Raises:
        ConfigError: one line for each problem: key, value, what was expected; for an unknown key the nearest known.
    """
    if lines := [*_impossible(value)]:
        raise ConfigError(*lines)
    try:
        return recipe_type.model_validate(value)
    except ValidationError as error:
        lines = [explain_error(item, value, recipe_type) for item in error.errors()]
        raise ConfigError(*dict.fromkeys(lines)) from None


def _impossible(value: Any, at: str = "") -> Iterator[str]:
    """A line for each number that no setting can have, whatever it is: they overflow somewhere far from the recipe."""
    parts: Iterable[tuple[object, Any]] = ()
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    for key, item in parts:
        yield from _impossible(item, f"{at}.{key}" if at else str(key))
    if isinstance(value, int | float) and not -LARGEST <= value <= LARGEST:  # NaN is not, either
        yield f"{at} = {shown(value)}: expected a number from {-LARGEST:,} to {LARGEST:,}"


def resolved(recipe: Recipe) -> RecipeDict:
    """The recipe with every default filled in and every path absolute, ready for YAML or JSON."""
    value: RecipeDict = _plain(recipe.model_dump(mode="python"))
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.expanduser().absolute())
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML: the text of a run's ``recipe.yaml``."""
    text: str = yaml.safe_dump(resolved(recipe), sort_keys=False, allow_unicode=True)
    return text
