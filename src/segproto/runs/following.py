"""The run that ``then`` names: completed from the run it follows, and checked before that one begins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from segproto.data.base import ClassTable
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.encoders.config import EncoderConfig
from segproto.errors import ConfigError, SegprotoError
from segproto.runs.catalogue import own_part, read_recipe, shipped_part
from segproto.runs.settings import checked, in_place
from segproto.training.config import TrainConfig
from segproto.training.method import Method
from segproto.training.recipe import Recipe, resolved
from segproto.training.recipe_files import RecipeDict, merge
from segproto.training.start import chosen_stages, first_model

# What both runs have in common if their recipes, as shipped, have; the weights are passed on wherever they fit.
SHARED: dict[str, tuple[type[Any], tuple[str, ...]]] = {
    "encoder": (EncoderConfig, ("name", "backbone", "layers", "output_stride", "width")),
    "train": (TrainConfig, ("seed", "precision", "accelerator", "devices", "num_nodes", "loggers", "threads")),
    "data": (DataConfig, ("workers", "on_error", "input_size")),
}
WEIGHTS = ("weights", "pretrained")
MOST_RUNS = 8  # of runs that follow on each other's masks; a longer chain leads back to itself


class Following(NamedTuple):
    """A run that is to follow: its method, its checked recipe, and what follows on that."""

    method: Method[Any]
    recipe: Recipe
    then: Following | None = None


def following(
    recipe: str | Path | RecipeDict,
    method: Method[Any],
    first: Recipe,
    out: Path,
    *,
    classes: ClassTable | None = None,
    most: int = MOST_RUNS,
) -> Following | None:
    """What ``first.then`` means, or None without it; its data are the masks that the first run leaves.

    Args:
        recipe: the name of the first run's, or what it holds.
        method: of the first run.
        first: its recipe.
        out: its folder.
        classes: of its data; None: of those that are there.
        most: runs that may follow, one on another.

    Raises:
        ConfigError: no masks are made in that run; an unknown recipe, method, key or stage; no weights; too many runs.
        WeightsError: weights that are missing or do not fit.
    """
    if first.then is None or not leaves_masks(method, first):
        return None
    then, classes = in_place(first.then), classes or build_dataset(first.data, "train").classes
    name = str(then.get("base", then.get("method")))
    if most == 0:
        raise ConfigError(f"then: {name}: leads to more than {MOST_RUNS} runs; does it name itself?")
    masks = {"data": {"name": "folder", "root": str(out.absolute() / "masks")}}
    try:
        value = merge(read_recipe(then), masks)
        plain = checked(value, name)[1]
        value = merge(value, inherited(shipped_part(recipe), first, plain, own_part(then)))
        follower = Following(*checked(value, name))
        require_weights(follower.recipe, own_part(then), name)
        chosen_stages(follower.method, follower.recipe)
        with torch.random.fork_rng():
            first_model(follower.method, follower.recipe, classes, None)
    except SegprotoError as error:
        raise type(error)(*(f"then: {line}" for line in error.args)) from error
    last = following(then, follower.method, follower.recipe, out / "then", classes=classes, most=most - 1)
    if last is None:
        return follower
    return Following(follower.method, follower.recipe.model_copy(update={"then": resolved(last.recipe)}), last)


def leaves_masks(method: Method[Any], recipe: Recipe) -> bool:
    """Whether the stages that are run make masks; without them nothing follows where ``train.stages`` leaves them out.

    Raises:
        ConfigError: the method makes none at all.
    """
    making = [stage.name for stage in method.stages(recipe) if getattr(stage, "leaves_masks", False)]
    if not making:
        raise ConfigError(f"then: {method.name} makes no masks to train on, as this recipe has it; leave then out")
    return recipe.train.stages is None or any(name in recipe.train.stages for name in making)


def inherited(shipped: Mapping[str, Any], first: Recipe, then: Recipe, own: Mapping[str, Any]) -> dict[str, Any]:
    """What the run that follows takes over.

    A setting of :data:`SHARED` that was changed in the first run is changed in the second, too, if their recipes had
    it in common; weights go along wherever the backbone they are for does. What ``then`` says itself is not touched.

    Args:
        shipped: what is shipped of the first run's recipe.
        first: that recipe with all that was changed.
        then: the second recipe.
        own: what is said of it beyond the shipped one.
    """
    taken = dict[str, dict[str, Any]]()
    for section, (model, keys) in SHARED.items():
        now, theirs = getattr(first, section), getattr(then, section)
        before, said = model.model_validate(shipped.get(section, {})), own.get(section, {})
        changed = [key for key in keys if key not in said and getattr(now, key) != getattr(before, key)]
        taken[section] = {key: getattr(now, key) for key in changed if getattr(theirs, key) == getattr(before, key)}
    encoder = then.encoder.model_copy(update=taken["encoder"])
    if not says_weights(own) and not begins_with_weights(then) and encoder.weights_for == first.encoder.weights_for:
        taken["encoder"] |= {key: getattr(first.encoder, key) for key in WEIGHTS}
    return taken


def says_weights(own: Mapping[str, Any]) -> bool:
    """Whether a recipe of one's own speaks of weights, be it that there shall be none."""
    return any(key in own.get("encoder", {}) for key in WEIGHTS)


def begins_with_weights(recipe: Recipe) -> bool:
    """Whether a run does not begin with a random backbone."""
    return recipe.encoder.weights is not None or recipe.encoder.pretrained or recipe.train.start is not None


def require_weights(recipe: Recipe, own: Mapping[str, Any], name: str) -> None:
    """Refuses to begin from a random backbone that needs weights, unless ``then`` says that it shall.

    Raises:
        ConfigError: naming what to set.
    """
    encoder = recipe.encoder
    if begins_with_weights(recipe) or says_weights(own) or encoder.backbone_kind.from_scratch:
        return
    network = " ".join(part for part in encoder.weights_for if part is not None)
    raise ConfigError(
        f"{name} would begin from a {network} of random weights: set encoder.weights=FILE if the first run has that "
        "backbone, too, else then.encoder.weights=FILE or then.encoder.pretrained=true (false: it shall be random), or "
        "then=null for the masks alone"
    )
