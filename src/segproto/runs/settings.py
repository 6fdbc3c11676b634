"""From what a user names (a recipe, a run, settings) to checked configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from segproto.data.config import DataConfig
from segproto.data.pixel_config import settings_of
from segproto.data.pixels import PixelRule
from segproto.encoders.config import GRID
from segproto.errors import ConfigError, DataError, WeightsError
from segproto.files.documents import read_checked
from segproto.files.keys import explain_error
from segproto.methods import METHODS
from segproto.runs.catalogue import read_recipe
from segproto.runs.folder import run_of
from segproto.table import nearest
from segproto.training.method import Method
from segproto.training.recipe import Recipe, apply_overrides, validate_recipe
from segproto.training.recipe_files import RecipeDict, load_recipe_dict, merge

MOST_EDITS = 1000  # of edits of edits that are followed back to their run
THEN = "then."  # begins the settings of the run that follows


def resolve(recipe: str | Path, sections: Mapping[str, Any], overrides: Sequence[str]) -> tuple[Method[Any], Recipe]:
    """The method a recipe names, and the checked recipe.

    Args:
        recipe: a shipped recipe's name or a YAML file.
        sections: merged over the file, at any depth.
        overrides: ``key=value`` settings, applied last; ``then.key=value`` are those of the run that follows.

    Raises:
        ConfigError: unknown recipe, method or key; settings of a run that follows where none does.
    """
    given = merge(read_recipe(recipe), dict(sections))
    own = [item for item in overrides if not item.startswith(THEN)]
    if later := [item.removeprefix(THEN) for item in overrides if item.startswith(THEN)]:
        given["then"] = followed_by(given, own, later)
        own = [item for item in own if not item.startswith("then=")]
    return checked(given, recipe, own)


def followed_by(given: RecipeDict, overrides: Sequence[str], later: Sequence[str]) -> RecipeDict:
    """The recipe of the run that follows, in place, with its settings ``later``.

    Raises:
        ConfigError: no run follows, or an unknown recipe.
    """
    then = apply_overrides(given, [item for item in overrides if item.startswith("then=")]).get("then")
    if then is None:
        raise ConfigError(f"{THEN}{later[0]}: no run follows; name its recipe, as in then=scaleproto/folder")
    try:
        method = METHODS.get(str(read_recipe(in_place(then)).get("method")))
    except ConfigError as error:
        raise ConfigError(*(f"then: {line}" for line in error.args)) from error
    return apply_overrides(in_place(then), later, None if method is None else method.recipe)


def in_place(then: str | RecipeDict) -> RecipeDict:
    """A recipe's ``then`` as a recipe in place."""
    return {"base": then} if isinstance(then, str) else then


def checked(given: RecipeDict, recipe: object, overrides: Sequence[str] = ()) -> tuple[Method[Any], Recipe]:
    """The method that a recipe names, and the recipe, checked.

    Args:
        given: what it holds, its bases included.
        recipe: its name, for messages.
        overrides: ``key=value`` settings, applied to it.

    Raises:
        ConfigError: an unknown method or key, or a value out of range.
    """
    name = str(apply_overrides(given, [item for item in overrides if item.startswith("method=")]).get("method"))
    if name not in METHODS:
        raise ConfigError(f"method = {name!r} in {recipe} is unknown; {nearest(name, METHODS)}")
    method = METHODS[name]
    value = apply_overrides(given, overrides, method.recipe)
    start = value.get("train", {}).get("start")
    if method.starts_from_any_encoder and start is not None:
        own = encoder_of(Path(start)) | {"frozen": True}
        asked = value.get("encoder", {})
        refuse_other_encoder(asked, own, overrides, start)
        value["encoder"] = own | {key: asked[key] for key in GRID if own.get(key) is None and key in asked}
    return method, validate_recipe(value, method.recipe)


def refuse_other_encoder(asked: RecipeDict, own: RecipeDict, overrides: Sequence[str], start: object) -> None:
    """Refuses settings of another encoder than that of the model one starts from, which would be left unread.

    Raises:
        ConfigError: naming the first.
    """
    for item in overrides:
        key = item.partition("=")[0].removeprefix("encoder.")
        left = own.get(key) is None and key in (*GRID, "weights")  # unset, or where its tensors once came from
        if item.startswith("encoder.") and key in own and not left and asked.get(key) != own[key]:
            raise ConfigError(
                f"{item}: with train.start={start} features are those of that model's encoder, which has "
                f"{key} = {own[key]}; leave this setting out, or start from another model"
            )


def encoder_of(start: Path) -> dict[str, Any]:
    """The encoder settings of a run's or model's artefact.

    Raises:
        WeightsError: no artefact there.
    """
    from segproto.model.artefact import find_model
    from segproto.model.description import Description

    return read_checked(find_model(start) / "model.json", Description, WeightsError).encoder


def pixel_settings(target: Path | None) -> dict[str, Any]:
    """How a model folder that is in no run reads images, as settings; none where it says nothing."""
    from segproto.model.artefact import find_model
    from segproto.model.description import Description

    if target is None or not (target / "model.json").exists():
        return {}
    description = read_checked(find_model(target) / "model.json", Description, WeightsError)
    return settings_of(PixelRule(**description.pixels.model_dump()))


class DataSection(BaseModel):
    """A recipe's ``data`` section alone: gives errors the names of keys that a user types."""

    data: DataConfig


def edited_run_of(target: Path) -> Path | None:
    """The run that a folder is or lies in; of an edited model, the run it was edited from, however often."""
    from segproto.model.description import Description

    for _ in range(MOST_EDITS):
        if (run := run_of(target)) is not None:
            return run
        file = target / "model.json"
        card = read_checked(file, Description, WeightsError).card if file.is_file() else {}
        source = card.get("edited_from")
        if not isinstance(source, str):
            return None
        target = Path(source)
    return None


def data_config(target: Path | None, data: Mapping[str, Any], overrides: Sequence[str]) -> DataConfig:
    """The data a run was trained on, changed by a mapping and by ``data.key=value`` (or ``key=value``) settings.

    Args:
        target: a run folder, a model in one or an edited model; None = no run, the settings are all there is.
        data: merged over the run's data.
        overrides: applied last.

    Raises:
        ConfigError: an unknown key (the nearest is named) or a value out of range.
        DataError: neither a run nor settings.
    """
    run = None if target is None else edited_run_of(target)
    if run is None and not data and not overrides:
        raise DataError(f"{target} is no run folder, so its data are unknown; name them: data.root=DIR")
    value = load_recipe_dict(run / "recipe.yaml").get("data", {}) if run is not None else pixel_settings(target)
    settings = [item.removeprefix("data.") for item in overrides]
    value = apply_overrides(merge(value, dict(data)), settings, DataConfig)
    try:
        return DataSection.model_validate({"data": value}).data
    except ValidationError as error:
        lines = [explain_error(item, {"data": value}, DataSection) for item in error.errors()]
        raise ConfigError(*dict.fromkeys(lines)) from None
