"""Recipes: overrides, unknown keys, bases, and the resolved recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from training_tiny import RECIPE, TinyRecipe, recipe

from segproto.errors import ConfigError
from segproto.methods import METHODS
from segproto.runs.catalogue import read_recipe, summaries
from segproto.training.recipe import Recipe, apply_overrides, dump_recipe, resolved, validate_recipe
from segproto.training.recipe_files import load_recipe_dict


def test_overrides_are_yaml_and_leave_the_original_alone() -> None:
    value = {"a": {"b": 1, "c": [1]}, "d": 2}
    changed = apply_overrides(value, ["a.b=1e-4", "a.c=[2, 3]", "e.f=true", "d=null", "g=x=y"])
    assert changed == {"a": {"b": 1e-4, "c": [2, 3]}, "d": None, "e": {"f": True}, "g": "x=y"}
    assert value == {"a": {"b": 1, "c": [1]}, "d": 2}


@pytest.mark.parametrize("text", ["seed", "=3", "train.=3", "a..b=1"])
def test_an_override_needs_key_and_value(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected key=value, for example train.seed=1"):
        apply_overrides({}, [text])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.sed=1", "train.sed: unknown key; did you mean train.seed?"),
        ("seed=1", "seed: unknown key; did you mean train.seed?"),
        ("data.augment.corp=3", "data.augment.corp: unknown key; did you mean data.augment.crop?"),
        ("train.crop=3", "train.crop: unknown key; did you mean data.augment.crop?"),
        ("data.split.val_fracton=0.5", "data.split.val_fracton: unknown key; did you mean data.split.val_fraction?"),
        ("trian.seed=1", "trian: unknown key; did you mean train?"),
        ("train.batch_size=two", "train.batch_size = 'two': expected a valid integer"),
        ("train.batch_size=0", "train.batch_size = 0: expected greater than or equal to 1"),
        ("train.precision=fp16", "train.precision = 'fp16': expected 'auto', '32-true', 'bf16-mixed' or '16-mixed'"),
        ("train.threads=100000", "train.threads = 100000: expected less than or equal to 1024"),
        ("train.batch_size=1000000000", "train.batch_size = 1000000000: expected less than or equal to 65536"),
        ("train.clip=.inf", "train.clip = inf: expected a number from"),
        ("train.seed=99999999999999999", "train.seed = 99999999999999999: expected a number from"),
        ("encoder.rates=[0]", "encoder.rates.0 = 0: expected greater than or equal to 1"),
        ("encoder.rates=[]", "encoder.rates = []: expected"),
        ("encoder.width=100000", "encoder.width = 100000: expected less than or equal to 1024"),
        ("data.square=100000", "data.square = 100000: expected less than or equal to 65536"),
        ("data.scenes.objects=[4, 2]", "data.scenes = {'num_train': 8, 'num_val': 2, 'size': 32, 'objects': [4, 2]}: "),
    ],
)
def test_errors_are_one_line_with_key_value_and_remedy(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe(override)
    text = str(caught.value)
    assert text.startswith(message)
    assert "\n" not in text


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        recipe("train.sed=1", "train.batch_size=0")
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^data: missing; set it in the recipe or with data=VALUE$"):
        validate_recipe({"method": "tiny"}, TinyRecipe)


def test_files_bases_and_errors_in_them(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("train: {seed: 1, clip: 1e-1}\ndata: {name: em}\n")
    (tmp_path / "over.yaml").write_text("base: base.yaml\ntrain: {seed: 2}\n")
    assert load_recipe_dict(tmp_path / "over.yaml") == {"train": {"seed": 2, "clip": 0.1}, "data": {"name": "em"}}
    (tmp_path / "loop.yaml").write_text("base: loop.yaml\n")
    with pytest.raises(ConfigError, match="leads back to itself"):
        load_recipe_dict(tmp_path / "loop.yaml")
    (tmp_path / "broken.yaml").write_text("train: {seed: 1\nx: [\n")
    with pytest.raises(ConfigError, match=r"broken.yaml, line \d: not YAML"):
        load_recipe_dict(tmp_path / "broken.yaml")
    with pytest.raises(ConfigError, match=r"none.yaml: no such file"):
        load_recipe_dict(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_recipe_dict("- a\n- b\n")


def test_the_resolved_recipe_says_everything_and_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    original = recipe("train.start=runs/one", "train.clip=1e-3")
    value = yaml.safe_load(dump_recipe(original))
    assert value["train"]["start"] == str(tmp_path / "runs/one")
    assert value["train"]["precision"] == "32-true"
    again = validate_recipe(value, TinyRecipe)
    assert resolved(again) == resolved(original) == value
    assert RECIPE["train"].get("start") is None


@pytest.mark.parametrize("name", sorted(METHODS))
def test_shipped_recipes_are_valid(name: str) -> None:
    method = METHODS[name]
    for recipe_name in summaries(name):
        assert validate_recipe(read_recipe(recipe_name), method.recipe).method == name


@pytest.mark.parametrize(
    "text", ["2024", "0123", "yes", "set #2", "{split}/images", "a: b", "[x]", "1e4", "~x", "*.png"]
)
def test_paths_and_text_are_taken_as_they_were_typed(text):
    for key in ("data.images", "data.label_suffix", "data.split.val_pattern"):
        value = apply_overrides({}, [f"{key}={text}"], Recipe)
        for part in key.split("."):
            value = value[part]
        assert value == text
    given = {"method": "x", "data": {"root": "r"}}
    root = validate_recipe(apply_overrides(given, [f"data.root={text}"], Recipe), Recipe).data.root
    assert root == Path.cwd() / text


def test_null_quotes_and_other_types_are_yaml_still():
    settings = ["data.labels=null", "data.classes=", 'data.images="2024"', "data.workers=2", "data.root=~/x"]
    value = apply_overrides({"method": "x"}, settings, Recipe)
    assert value["data"] == {"labels": None, "classes": None, "images": "2024", "workers": 2, "root": "~/x"}
    assert validate_recipe(value, Recipe).data.root == Path.home() / "x"
