"""Procedures and stages of the prototype methods: what they refuse, keep and forget."""

from __future__ import annotations

from segproto.methods import METHODS
from segproto.training.recipe import Recipe, apply_overrides, load_recipe_dict, validate_recipe


def shipped(method: str, *overrides: str, name: str = "scenes") -> Recipe:
    entry = METHODS[method]()
    value = apply_overrides(load_recipe_dict(entry.recipes / f"{name}.yaml"), overrides)
    return validate_recipe(value, entry.recipe)


def test_an_override_of_the_projection_keeps_protosegs_membership() -> None:
    recipe = shipped("protoseg", "stages.project.deduplicate=false")
    assert recipe.stages.project.membership == "any_pixel"  # type: ignore[attr-defined]
    recipe = shipped("protoseg", "stages.project.membership=nearest_label")
    assert recipe.stages.project.membership == "nearest_label"  # type: ignore[attr-defined]
