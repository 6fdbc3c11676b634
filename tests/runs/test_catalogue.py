"""The shipped recipes by name: lists, titles, and bases of recipes of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from segproto.errors import ConfigError
from segproto.runs.catalogue import read_recipe, recipe_text, shared, shipped, summaries
from segproto.runs.settings import resolve

VITS = {"s8": "DINO ViT-S/8", "b8": "DINO ViT-B/8", "s14": "DINOv2 ViT-S/14", "b14": "DINOv2 ViT-B/14"}


def test_a_printed_recipe_reads_the_same_from_anywhere(tmp_path: Path) -> None:
    for name in shipped():
        (tmp_path / "my.yaml").write_text(recipe_text(name))
        assert read_recipe(tmp_path / "my.yaml") == read_recipe(name), name


def test_a_shipped_recipe_is_a_base_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("base: scaleproto/folder\nmodel: {groups: 2}\n")
    method, recipe = resolve(file, {"data": {"root": str(tmp_path)}}, ["train.seed=4"])
    _, plain = resolve("scaleproto/folder", {"data": {"root": str(tmp_path)}}, ["train.seed=4", "model.groups=2"])
    assert method.name == "scaleproto"
    assert recipe == plain
    file.write_text("base: [blackbox/folder, other.yaml]\n")
    (tmp_path / "other.yaml").write_text("train: {seed: 7, batch_size: 3}\n")
    assert read_recipe(file)["train"] == {**read_recipe("blackbox/folder")["train"], "seed": 7, "batch_size": 3}


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("scaleprot/folder", r"my.yaml: base = 'scaleprot/folder' is neither .*; did you mean scaleproto/folder\?"),
        ("other.yaml", r"other.yaml: no such file"),
        ("3", r"my.yaml: base = 3: expected a recipe's name or file, or a list of them"),
    ],
)
def test_a_base_that_is_none_is_named(base: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(f"base: {base}\n")
    with pytest.raises(ConfigError, match=message):
        read_recipe(tmp_path / "my.yaml")


def test_titles_tell_what_a_recipe_resolves_to() -> None:
    titles = summaries()
    assert list(titles) == list(shipped())
    assert all(line and "{" not in line for line in titles.values())
    for name, line in summaries("primaps").items():
        data, _, rest = name.removeprefix("primaps/").partition("-")
        if rest:
            size = rest.split("-")[0].split("_")[1]
            assert line.startswith(f"{data.rstrip('0123456789')}, "), name
            assert f" {VITS[size]}" in line, name
    assert recipe_text("primaps/potsdam3-dino_s8-stego").startswith("# potsdam, 3 classes, DINO ViT-S/8: boosts STEGO.")


def test_shared_lines_are_no_recipes_and_all_are_read() -> None:
    assert not shared().keys() & shipped().keys()
    files = [*shipped().values(), *shared().values()]
    named = {line for file in files for line in file.read_text().splitlines() if line.startswith("base:")}
    assert [name for name in shared() if not any(name in line for line in named)] == []


def test_lists_by_method_and_by_data() -> None:
    both = summaries("primaps", "cityscapes")
    assert len(both) == 12
    assert both.items() < summaries("primaps").items() < summaries().items()
    assert set(summaries(data="em")) == {
        f"{m}/{n}" for m in ("blackbox", "protoseg", "scaleproto") for n in ("em", "em_small")
    } | {"nonparametric/em_small"}
    with pytest.raises(ConfigError, match=r"no recipe is of a method 'primap'; did you mean primaps\?"):
        summaries("primap")
    with pytest.raises(ConfigError, match=r"none of these recipes is for data.name=voc; known: cityscapes, "):
        summaries("primaps", "voc")
