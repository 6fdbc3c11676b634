"""Procedures and stages of the prototype methods: what they refuse, keep and forget."""

from __future__ import annotations

import pytest

from segproto.data.base import ClassTable
from segproto.methods import METHODS
from segproto.training.procedures.seeding import begin_linear
from segproto.training.recipe import Recipe, apply_overrides, load_recipe_dict, validate_recipe
from segproto.training.stage import Optimise

TINY = ["encoder.width=2", "encoder.dim=4", "encoder.rates=[1,2]"]
TABLE = ClassTable(("a", "b", "c"), ((0, 0, 0), (90, 0, 0), (0, 90, 0)))


def shipped(method: str, *overrides: str, name: str = "scenes") -> Recipe:
    entry = METHODS[method]()
    value = apply_overrides(load_recipe_dict(entry.recipes / f"{name}.yaml"), overrides)
    return validate_recipe(value, entry.recipe)


def test_an_override_of_the_projection_keeps_protosegs_membership() -> None:
    recipe = shipped("protoseg", "stages.project.deduplicate=false")
    assert recipe.stages.project.membership == "any_pixel"  # type: ignore[attr-defined]
    recipe = shipped("protoseg", "stages.project.membership=nearest_label")
    assert recipe.stages.project.membership == "nearest_label"  # type: ignore[attr-defined]


@pytest.mark.parametrize("fusion", ["sum", "concat"])
@pytest.mark.parametrize("method", ["protoseg", "scaleproto"])
def test_a_bank_is_the_same_however_the_model_came_to_it(method: str, fusion: str) -> None:
    recipe = shipped(method, *TINY, f"encoder.fusion={fusion}")
    built = METHODS[method]().build(recipe, TABLE)
    model = METHODS[method]().build(recipe, TABLE)
    begin_linear(model)
    stage = next(s for s in METHODS[method]().stages(recipe) if s.name == "joint")
    assert isinstance(stage, Optimise)
    assert stage.begin is not None
    stage.begin(model)
    assert model.head.describe() == built.head.describe()
