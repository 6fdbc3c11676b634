"""The model a run begins with."""

from __future__ import annotations

import difflib
from pathlib import Path

from segproto.data.base import ClassTable
from segproto.encoders.codes import Codes
from segproto.encoders.config import GRID, EncoderConfig
from segproto.errors import ConfigError, WeightsError
from segproto.model.segmenter import Segmenter
from segproto.training.devices import seed_all
from segproto.training.method import Method
from segproto.training.progress import current
from segproto.training.recipe import RecipeT
from segproto.training.stage import Optimise, Stage


def first_model(method: Method[RecipeT], recipe: RecipeT, classes: ClassTable, resumed: Path | None) -> Segmenter:
    """The checkpoint's model, that of ``train.start``, or an untrained one.

    Args:
        method: builds untrained models.
        recipe: of the run.
        classes: of the data.
        resumed: the checkpoint a resumed run goes on from.

    Raises:
        WeightsError: a model that does not fit the recipe.
    """
    if resumed is not None:
        segmenter = Segmenter.load(resumed / "model")
    elif recipe.train.start is not None:
        segmenter = Segmenter.load(recipe.train.start)
        require_fit(recipe.train.start, segmenter, recipe.encoder, classes)
        others = classes.names and segmenter.classes.names != classes.names  # images without masks have no classes
        if others and not segmenter.found_categories:
            segmenter = with_new_head(method, recipe, classes, segmenter)
    else:
        seed_all(recipe.train.seed, "build")
        return method.build(recipe, classes)
    own = segmenter.encoder.config.model_dump(include=set(GRID))
    segmenter.encoder.config = recipe.encoder.model_copy(
        update={key: value for key, value in own.items() if getattr(recipe.encoder, key) is None}
    )
    if isinstance(segmenter.encoder.neck, Codes):
        segmenter.encoder.neck.dropout = recipe.encoder.code_dropout
    segmenter.encoder.backbone_frozen = False
    if recipe.encoder.frozen:
        segmenter.encoder.freeze_backbone()
    return segmenter


def with_new_head(method: Method[RecipeT], recipe: RecipeT, classes: ClassTable, old: Segmenter) -> Segmenter:
    """An untrained model of the data's classes, on the encoder of a trained one with others."""
    seed_all(recipe.train.seed, "build")
    untrained = recipe.encoder.model_copy(update={"weights": None, "pretrained": False})
    segmenter = method.build(recipe.model_copy(update={"encoder": untrained}), classes)
    segmenter.encoder = old.encoder
    current().line(
        f"train.start = {recipe.train.start}: its classes ({old.classes.num_classes}) are not those of the data "
        f"({classes.num_classes}): the encoder is kept, the head begins anew"
    )
    return segmenter


def require_fit(path: Path, segmenter: Segmenter, encoder: EncoderConfig, classes: ClassTable) -> None:
    """Refuses a model of another architecture, or with the classes of the data in another order.

    Raises:
        WeightsError: naming the first setting that differs and both values.
    """
    # where tensors came from, who trains them, and what training may switch
    elsewhere = {"weights", "pretrained", "frozen", "code_dropout", "neck_momentum", *GRID}
    has = segmenter.encoder.config.model_dump(mode="json", exclude=elsewhere)
    wants = encoder.model_dump(mode="json", exclude=elsewhere)
    for key, value in wants.items():
        if has[key] != value:
            raise WeightsError(
                f"train.start = {path}: that model has encoder.{key} = {has[key]}, the recipe {value}; "
                f"set encoder.{key}={has[key]} or start from another model"
            )
    own = segmenter.classes.names
    if own != classes.names and sorted(own) == sorted(classes.names):
        a, b = next(pair for pair in zip(own, classes.names, strict=True) if pair[0] != pair[1])
        raise WeightsError(
            f"train.start = {path}: that model has the classes of the data in another order (the first that differ: "
            f"{a} / {b}); list them in classes.yaml as the model does"
        )


def chosen_stages(method: Method[RecipeT], recipe: RecipeT) -> list[Stage]:
    """The stages to run: those of ``train.stages`` if set, in the method's order, without those of 0 steps.

    Raises:
        ConfigError: an unknown stage, or none left.
    """
    stages = method.stages(recipe)
    names = [stage.name for stage in stages]
    for named in recipe.train.stages or []:
        if named not in names:
            close = difflib.get_close_matches(named, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"{method.name} has {', '.join(names)}"
            raise ConfigError(f"train.stages: {named!r} is no stage of {method.name}; {hint}")
    kept = [s for s in stages if recipe.train.stages is None or s.name in recipe.train.stages]
    kept = [s for s in kept if not (isinstance(s, Optimise) and s.steps == 0)]
    if not kept:
        raise ConfigError(f"train.stages = {recipe.train.stages}: no stage is left to run (0 steps skip one)")
    return kept
